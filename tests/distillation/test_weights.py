"""Weights: their formulas, and finite values on every schedule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import max_difference

from limbeck.config.discovery import choices
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.weights import (
    AlphaSigmaWeight,
    BAOABWeight,
    DreamFusionWeight,
    DreamTimeWeight,
    Fantasia3DWeight,
    HiFAWeight,
    LambdaWeight,
    LogLambdaWeight,
    MinSNRWeight,
    UnifiedGuidanceWeight,
    UniformWeight,
    Weight,
)

SD = stable_diffusion_schedule()
SCHEDULES = {
    "stable-diffusion": SD,
    "cosine": CosineSchedule(),
    "rectified-flow": RectifiedFlowSchedule(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
T = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)


@every_schedule
def test_weights_equal_their_formulas(schedule) -> None:
    a, s = schedule.alpha(T), schedule.sigma(T)
    snr, ratio = a**2 / s**2, s / a
    clipped = torch.minimum(snr, torch.tensor(5.0, dtype=torch.float64))
    for weight, expected in (
        (DreamFusionWeight(), s**2),
        (UniformWeight(), torch.ones_like(a)),
        (LambdaWeight(), ratio),
        (LambdaWeight(0.5), ratio.sqrt()),
        (LambdaWeight(2.0), ratio**2),
        (LogLambdaWeight(), torch.log(1 + ratio)),
        (Fantasia3DWeight(), a * s**2),
        (UnifiedGuidanceWeight(), 1 - a),
        (BAOABWeight(), 2 * s**2 / a**2),
        (AlphaSigmaWeight(), a),
        (AlphaSigmaWeight(2.0), a**2),
        (AlphaSigmaWeight(1.0, 1.0), a * s),
        (AlphaSigmaWeight(0.0, 2.0), s**2),
        (MinSNRWeight(), clipped / snr),
        (MinSNRWeight(prediction_type="x0"), clipped),
        (MinSNRWeight(prediction_type="v"), clipped / (snr + 1)),
        (HiFAWeight("constant"), 0.05 * ratio),
        (HiFAWeight("noisematch"), 0.05 * a / s * ratio),
        (HiFAWeight("sdslike"), 0.05 * a * s * ratio),
        (HiFAWeight("strongerlower"), 0.05 * a**2 / s * ratio),
    ):
        w = weight(schedule, T)
        assert w.dtype == torch.float64
        assert max_difference(w / expected, torch.ones_like(expected)) < 1e-12, weight


@given(st.floats(0, 1), st.floats(0.1, 100))
@settings(max_examples=40, deadline=None)
def test_the_three_min_snr_weights_are_one_loss(fraction: float, gamma: float) -> None:
    """Each weight times the squared error of its prediction type, for errors of one prediction."""
    schedule, t = CosineSchedule(), torch.tensor([0.001 + 0.998 * fraction], dtype=torch.float64)
    a, s = schedule.alpha(t), schedule.sigma(t)
    # x0_hat = (x_t - sigma eps_hat) / alpha, v = alpha eps - sigma x0
    errors = {"eps": 1.0, "x0": s / a, "v": 1 / a}
    losses = [
        float(MinSNRWeight(gamma, prediction_type)(schedule, t) * error**2)
        for prediction_type, error in errors.items()
    ]
    assert max(losses) - min(losses) < 1e-9 * max(losses)


def test_min_snr_is_finite_at_both_ends() -> None:
    schedule, ends = RectifiedFlowSchedule(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert MinSNRWeight()(schedule, ends).tolist() == [0.0, 1.0]
    assert MinSNRWeight(prediction_type="x0")(schedule, ends).tolist() == [5.0, 0.0]
    assert MinSNRWeight(prediction_type="v")(schedule, ends).tolist() == [0.0, 0.0]


def test_the_dreamtime_weight_is_flat_between_two_gaussians() -> None:
    t = torch.tensor([0.3, 0.5, 0.65, 0.8, 0.95], dtype=torch.float64)
    expected = torch.tensor([math.exp(-2), 1, 1, 1, math.exp(-0.125)], dtype=torch.float64)
    assert max_difference(DreamTimeWeight()(SD, t), expected) < 1e-15


@pytest.mark.parametrize("cls", choices(Weight).values())
@every_schedule
def test_weights_are_finite_and_not_negative(cls: type, schedule) -> None:
    w = cls()(schedule, T.float())
    assert w.shape == T.shape and bool(w.isfinite().all()) and bool((w >= 0).all())


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (MinSNRWeight, {"gamma": 0.0}, "gamma must be positive and finite, not 0.0"),
        (DreamTimeWeight, {"s1": -1.0}, "s1 and s2"),
        (DreamTimeWeight, {"m2": 0.9}, "m2 0.9, m1 0.8"),
    ],
)
def test_options_out_of_range_are_refused(cls: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)
