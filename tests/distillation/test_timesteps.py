"""Timesteps: deterministic ones against their formulas, random ones against their distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import max_difference, row_rng, zero_snr_schedule

from limbeck.config.discovery import choices
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.noise import AntitheticNoise, DriftingNoise, IndependentNoise, Noise
from limbeck.distillation.timesteps.base import RandomTimesteps, ScheduledTimesteps, Timesteps
from limbeck.distillation.timesteps.deterministic import (
    FixedTimesteps,
    HiFATimesteps,
    LinearTimesteps,
    PiecewiseConstantTimesteps,
    PiecewiseLinearTimesteps,
    PolynomialTimesteps,
    QuadraticTimesteps,
)
from limbeck.distillation.timesteps.dreamtime import DreamTimeTimesteps, cumulative_weight
from limbeck.distillation.timesteps.random import (
    ISMTimesteps,
    LogitNormalTimesteps,
    NStageTimesteps,
    RandomDecayTimesteps,
    RandomDownTimesteps,
    ShiftedTimesteps,
    TwoStageTimesteps,
    UniformTimesteps,
)
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

SD = stable_diffusion_schedule()
SCHEDULES = {
    "stable-diffusion": SD,
    "cosine": CosineSchedule(),
    "rectified-flow": RectifiedFlowSchedule(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
ALL = list(choices(Timesteps).values())
fractions = st.floats(0, 1)
ranges = st.tuples(fractions, fractions).map(sorted)
few_examples = settings(max_examples=40, deadline=None)


def times_of_run(timesteps: Timesteps, steps: int, rows: int = 1, schedule=SD) -> torch.Tensor:
    """Times ``[steps, rows]`` of a whole run."""
    return torch.stack(
        [timesteps(k, steps, rows, schedule, row_rng(rows, 0, k)) for k in range(steps)]
    )


@every_schedule
@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("steps", [1, 2, 37])
def test_times_lie_in_the_unit_interval(cls: type, steps: int, schedule) -> None:
    t = times_of_run(cls(), steps, 5, schedule)
    assert t.shape == (steps, 5) and t.dtype == torch.float32
    assert bool(((t >= 0) & (t <= 1)).all())


@pytest.mark.parametrize("cls", [c for c in ALL if issubclass(c, RandomTimesteps)])
def test_random_times_stay_within_bounds_and_are_drawn_per_row_or_per_batch(cls: type) -> None:
    per_row, per_batch = (
        times_of_run(cls(), 50, 40),
        times_of_run(cls(per_row=False), 50, 40),
    )
    for times in (per_row, per_batch):
        for step, row in enumerate(times):
            t_min, t_max = cls().bounds(step, 50)
            assert t_min - 1e-7 <= float(row.min()) <= float(row.max()) <= t_max + 1e-7
    assert bool((per_row.std(1) > 0).all()) and bool((per_batch == per_batch[:, :1]).all())
    assert float(per_batch[:, 0].std()) > 0


@pytest.mark.parametrize(
    "timesteps",
    [
        LinearTimesteps(),
        QuadraticTimesteps(),
        HiFATimesteps(),
        HiFATimesteps(power=3.0),
        DreamTimeTimesteps(),
        DreamTimeTimesteps(diffusion_weight=False),
        PiecewiseLinearTimesteps(),
        PiecewiseConstantTimesteps(),
        PolynomialTimesteps(),
    ],
)
@pytest.mark.parametrize("steps", [2, 99, 1500])
def test_identity_28_deterministic_times_fall(timesteps: ScheduledTimesteps, steps: int) -> None:
    t = times_of_run(timesteps, steps, 3)
    assert bool((t[1:] <= t[:-1]).all()) and bool((t == t[:, :1]).all())
    assert float(t[0, 0]) > float(t[-1, 0])


@given(ranges, st.integers(2, 300), st.data())
@few_examples
def test_deterministic_times_equal_their_formulas(bounds, steps, data) -> None:
    low, high = bounds
    step = data.draw(st.integers(0, steps - 1))
    p = step / (steps - 1)
    linear = (1 - p) * high + p * low
    quadratic = ((1 - p) * math.sqrt(high) + p * math.sqrt(low)) ** 2
    for timesteps, expected in (
        (LinearTimesteps(low, high), linear),
        (QuadraticTimesteps(low, high), quadratic),
        (HiFATimesteps(low, high), high - (high - low) * math.sqrt(p)),
        (HiFATimesteps(low, high, 1.0), linear),
        (PiecewiseLinearTimesteps((0.0, 1.0), (high, low)), linear),
        (PolynomialTimesteps((high, low - high)), linear),
    ):
        t = timesteps.time(step, steps, SD)
        assert math.isclose(t, expected, abs_tol=1e-12), timesteps
    constant = PiecewiseConstantTimesteps((0.0, 0.5), (high, low)).time(step, steps, SD)
    assert constant == (high if step < steps / 2 else low)


def test_piecewise_linear_passes_its_milestones_and_is_constant_after_the_last() -> None:
    timesteps = PiecewiseLinearTimesteps((0.0, 0.25, 0.5), (0.9, 0.3, 0.7))
    times = [round(timesteps.time(step, 101, SD), 6) for step in (0, 25, 50, 75, 100)]
    assert times == [0.9, 0.3, 0.7, 0.7, 0.7]
    assert math.isclose(timesteps.time(12, 97, SD), 0.6)  # halfway to the second milestone


def dreamtime_w_p(t: float) -> float:
    """W_p with the default options."""
    if t > 0.8:
        return math.exp(-((t - 0.8) ** 2) / 0.18)
    return math.exp(-((t - 0.5) ** 2) / 0.02) if t < 0.5 else 1.0


@every_schedule
@pytest.mark.parametrize("diffusion_weight", [True, False])
@pytest.mark.parametrize("steps", [10, 700, 3000])
def test_identity_28_dreamtime_spends_an_equal_share_per_step(
    schedule, diffusion_weight: bool, steps: int
) -> None:
    timesteps = DreamTimeTimesteps(diffusion_weight=diffusion_weight)
    grid = torch.arange(20, 981, dtype=torch.float64) / 1000
    weight = torch.tensor([dreamtime_w_p(t) for t in grid.tolist()], dtype=torch.float64)
    if diffusion_weight:
        weight = weight * (schedule.sigma(grid) / schedule.alpha(grid))
    weight = weight / weight.sum()
    for step in range(0, steps, max(1, steps // 50)):
        t = timesteps.time(step, steps, schedule)
        spent = float(weight[grid >= t - 1e-9].sum())
        assert abs(spent - step / steps) <= float(weight.max())
        best = min(abs(float(weight[i:].sum()) - step / steps) for i in range(len(weight)))
        assert abs(spent - step / steps) <= best + 1e-12


def test_dreamtime_sums_its_weight_once_per_schedule() -> None:
    cumulative_weight.cache_clear()
    times_of_run(DreamTimeTimesteps(), 30)
    assert cumulative_weight.cache_info().misses == 1


@pytest.mark.parametrize(
    "schedule",
    [zero_snr_schedule(), RectifiedFlowSchedule()],
    ids=["zero-terminal-snr", "rectified-flow"],
)
def test_dreamtime_refuses_an_infinite_weight(schedule) -> None:
    with pytest.raises(ValueError, match="use a smaller t_max"):
        DreamTimeTimesteps(t_max=1.0).time(0, 10, schedule)
    timesteps = DreamTimeTimesteps(t_max=1.0, diffusion_weight=False)
    assert timesteps.time(0, 10, schedule) == 1.0


def kolmogorov_distance(sample: torch.Tensor, cdf) -> float:
    """Largest distance of the empirical distribution from ``cdf``, in units of 1 / sqrt(n).

    It is above 2 with probability 7e-4.
    """
    x = sample.double().sort().values
    n = len(x)
    empirical = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return float((cdf(x) - empirical).abs().max()) * n**0.5


def uniform_cdf(low: float, high: float):
    return lambda x: (x - low) / (high - low)


def logit_normal_cdf(x: torch.Tensor) -> torch.Tensor:
    """logit_mean 0.5, logit_std 2."""
    return torch.special.ndtr((torch.logit(x) - 0.5) / 2)


def shifted_cdf(x: torch.Tensor) -> torch.Tensor:
    """shift 3."""
    return x / (3 - 2 * x)


@pytest.mark.parametrize(
    ("timesteps", "step", "cdf"),
    [
        (UniformTimesteps(), 3, uniform_cdf(0.02, 0.98)),
        (TwoStageTimesteps(), 49, uniform_cdf(0.02, 0.98)),
        (TwoStageTimesteps(), 50, uniform_cdf(0.02, 0.5)),
        (TwoStageTimesteps(late_t_min=0.3), 50, uniform_cdf(0.3, 0.5)),
        (NStageTimesteps(num_stages=2), 49, uniform_cdf(0.02, 0.98)),
        (NStageTimesteps(num_stages=2), 50, uniform_cdf(0.02, 0.5)),
        (NStageTimesteps(), 99, uniform_cdf(0.02, 0.26)),
        (RandomDownTimesteps(), 0, uniform_cdf(0.5, 0.98)),
        (RandomDownTimesteps(), 99, uniform_cdf(0.02, 0.5)),
        (RandomDecayTimesteps(), 99, uniform_cdf(0.02, 0.2)),
        (ISMTimesteps(), 0, uniform_cdf(0.02, 0.98)),
        (ISMTimesteps(), 15, uniform_cdf(0.02, 0.74)),
        (ISMTimesteps(), 60, uniform_cdf(0.02, 0.5)),
        (LogitNormalTimesteps(0.0, 1.0, 0.5, 2.0), 7, logit_normal_cdf),
        (ShiftedTimesteps(0.0, 1.0, 3.0), 7, shifted_cdf),
    ],
)
def test_identity_28_random_times_follow_their_distribution(
    timesteps: RandomTimesteps, step: int, cdf
) -> None:
    assert kolmogorov_distance(timesteps(step, 100, 20_000, SD, row_rng(20_000, 1)), cdf) < 2


@given(st.integers(1, 400), fractions)
@few_examples
def test_identity_28_the_second_stage_starts_at_switch_at(steps: int, switch_at: float) -> None:
    timesteps = TwoStageTimesteps(0.0, 1.0, 0.25, switch_at)
    upper = [timesteps.bounds(step, steps)[1] for step in range(steps)]
    assert upper == [1.0 if step < switch_at * steps else 0.25 for step in range(steps)]


@given(st.integers(1, 400), st.integers(1, 9))
@few_examples
def test_stages_are_equally_long(steps: int, num_stages: int) -> None:
    timesteps = NStageTimesteps(num_stages=num_stages)
    upper = [timesteps.bounds(step, steps)[1] for step in range(steps)]
    lengths = [upper.count(bound) for bound in set(upper)]
    assert max(lengths) - min(lengths) <= 1 and upper == sorted(upper, reverse=True)
    assert len(lengths) == min(num_stages, steps)


def test_an_exponential_decay_falls_by_a_constant_factor() -> None:
    timesteps = RandomDecayTimesteps(0.4, 0.8, 0.04, 0.08, exponential=True)
    upper = torch.tensor([timesteps.bounds(k, 21)[1] for k in range(21)], dtype=torch.float64)
    factor = torch.full((20,), 0.1 ** (1 / 20), dtype=torch.float64)
    assert max_difference(upper[1:] / upper[:-1], factor) < 1e-12


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (UniformTimesteps, {"t_min": 0.5, "t_max": 0.2}, "t_min 0.5, t_max 0.2"),
        (LinearTimesteps, {"t_min": -0.1, "t_max": 0.2}, "t_min -0.1"),
        (FixedTimesteps, {"t": 1.5}, "1.5"),
        (QuadraticTimesteps, {"t_min": 0.0, "t_max": float("nan")}, "nan"),
        (HiFATimesteps, {"power": 0.0}, "power must be positive and finite, not 0.0"),
        (TwoStageTimesteps, {"switch_at": 2.0}, "switch_at must be a fraction of training"),
        (TwoStageTimesteps, {"late_t_min": 0.9}, "late_t_min 0.9, late_t_max 0.5"),
        (TwoStageTimesteps, {"t_min": 0.6}, "late_t_max 0.5 is below t_min 0.6: give a larger"),
        (NStageTimesteps, {"num_stages": 0}, "num_stages must be at least 1, not 0"),
        (RandomDownTimesteps, {"radius": -1.0}, "radius must be a fraction"),
        (RandomDecayTimesteps, {"late_t_min": 0.0, "exponential": True}, "needs times above 0"),
        (ISMTimesteps, {"warmup": -0.5}, "warmup must be a fraction of training"),
        (ISMTimesteps, {"late_t_max": 0.01}, "t_min 0.02, late_t_max 0.01"),
        (LogitNormalTimesteps, {"logit_std": -1.0}, "logit_std must be at least 0"),
        (ShiftedTimesteps, {"shift": 0.0}, "shift must be positive and finite, not 0.0"),
        (
            PiecewiseLinearTimesteps,
            {"milestones": (0.0, 1.0), "times": (0.5,)},
            "the same length, at least 1, not 2 and 1",
        ),
        (PiecewiseLinearTimesteps, {"milestones": (), "times": ()}, "at least 1, not 0 and 0"),
        (
            PiecewiseConstantTimesteps,
            {"milestones": (0.1,), "times": (0.5,)},
            "milestones must increase from 0",
        ),
        (
            PiecewiseConstantTimesteps,
            {"milestones": (0.0, 0.5, 0.5), "times": (0.5, 0.4, 0.3)},
            "milestones must increase from 0",
        ),
        (PiecewiseLinearTimesteps, {"milestones": (0.0,), "times": (2.0,)}, "not 2.0"),
        (PolynomialTimesteps, {"coefficients": (0.5, 1.0)}, r"stay within \[0, 1\]"),
        (PolynomialTimesteps, {"coefficients": (float("nan"),)}, "is nan"),
        (DreamTimeTimesteps, {"m1": 0.3}, "m2 0.5, m1 0.3"),
        (DreamTimeTimesteps, {"s2": 0.0}, "s1 and s2 must be positive"),
    ],
)
def test_options_out_of_range_are_refused(cls: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)


@pytest.mark.parametrize(
    "noise",
    [IndependentNoise(), DriftingNoise(0.1), AntitheticNoise(), AntitheticNoise("rows")],
    ids=lambda n: type(n).__name__,
)
@pytest.mark.parametrize(
    "timesteps",
    [DreamTimeTimesteps(), RandomDownTimesteps(per_row=False)],
    ids=["dreamtime", "random-down"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(noise: Noise, timesteps: Timesteps) -> None:
    experiment = Experiment(
        ("red disc",),
        method=SDS(5.0),
        timesteps=timesteps,
        noise=noise,
        particles=3,
        batch_size=2,
        steps=8,
    )
    whole, first, second = (Run(experiment, colored_shapes(8)) for _ in range(3))
    for _ in range(8):
        whole.advance()
    for _ in range(3):
        first.advance()
    second.load({k: v.clone() for k, v in first.tensors().items()}, 3)
    for _ in range(5):
        second.advance()
    assert all(torch.equal(v, second.tensors()[k]) for k, v in whole.tensors().items())
