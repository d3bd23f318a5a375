"""Noise: distributions, pairing, and noise that depends on the prior."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_inputs import SD
from tiny_pipeline import make_inputs, max_difference, normal, row_rng

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.distillation import noise
from limbeck.distillation.noise import (
    AntitheticNoise,
    DriftingNoise,
    FixedPerParticleNoise,
    InvertedNoise,
    Noise,
    PredictedNoise,
)
from limbeck.distillation.state import Stateless
from limbeck.methods.rfds import RFDS
from limbeck.methods.rfds_rev import RFDSRev
from limbeck.methods.sds import SDS
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.system.random import RowRandom, RunSeed
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

few_examples = settings(max_examples=40, deadline=None)


# drifting


@given(st.integers(0, 5000), st.integers(0, 9))
@few_examples
def test_drifting_noise_with_gamma_zero_is_fixed(step: int, seed: int) -> None:
    particle = torch.tensor([0, 5, 2])
    fixed = FixedPerParticleNoise()(RowRandom.of_step(seed, step, particle), (3, 2))
    drifting = DriftingNoise(0.0)(RowRandom.of_step(seed, step, particle), (3, 2))
    assert max_difference(drifting, fixed) < 1e-6


@given(st.integers(0, 3000), st.integers(0, 3000), st.floats(0, 1))
@few_examples
def test_drifting_noise_has_the_correlation_of_the_recursion(
    first: int, second: int, gamma: float
) -> None:
    n, particle = 20_000, torch.tensor([1])
    drifting, bound = DriftingNoise(gamma), 5 * (2 / n) ** 0.5
    a, b = (
        drifting(RowRandom.of_step(0, step, particle), (n,))[0].double() for step in (first, second)
    )
    assert abs(float(a.square().mean()) - 1) < bound
    correlation = (1 - gamma) ** (abs(first - second) / 2)
    assert abs(float((a * b).mean()) - correlation) < bound


def test_drifting_noise_is_the_recursion_with_independent_normals() -> None:
    """The innovations, solved for from the recursion, are white and independent of the start."""
    gamma, n, particle = 0.05, 20_000, torch.tensor([3])
    drifting = DriftingNoise(gamma)
    path = torch.stack(
        [drifting(RowRandom.of_step(4, step, particle), (n,))[0].double() for step in range(20)]
    )
    innovations = (path[1:] - (1 - gamma) ** 0.5 * path[:-1]) / gamma**0.5
    rows = torch.cat([path[:1], innovations])
    covariance = rows @ rows.T / n
    assert max_difference(covariance, torch.eye(20, dtype=torch.float64)) < 5 * (2 / n) ** 0.5


def test_the_cost_of_drifting_noise_is_logarithmic(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    draw = noise._noise_at
    monkeypatch.setattr(noise, "_noise_at", lambda *args: calls.append(args[1]) or draw(*args))
    for step in (0, 1, 2, 3, 64, 999, 1000, 24_999):
        calls.clear()
        DriftingNoise()(row_rng(1, 0, step), (1,))
        assert len(calls) <= 2 * math.log2(max(step, 1)) + 2
        assert len(set(calls)) == len(calls)


@pytest.mark.parametrize(
    "per_particle",
    [FixedPerParticleNoise(), DriftingNoise(0.2), AntitheticNoise()],
    ids=["fixed-per-particle", "drifting", "antithetic"],
)
def test_the_noise_of_a_particle_does_not_depend_on_the_batch(per_particle: Noise) -> None:
    everyone = per_particle(row_rng(6, 2, 11), (4,))
    some = per_particle(RowRandom.of_step(2, 11, torch.tensor([5, 1])), (4,))
    assert torch.equal(some, everyone[[5, 1]])
    assert len(set(everyone[:, 0].tolist())) == 6


# antithetic


def test_antithetic_steps_are_paired() -> None:
    eps = [AntitheticNoise()(row_rng(3, 1, step), (50,)) for step in range(4)]
    assert torch.equal(eps[1], -eps[0]) and torch.equal(eps[3], -eps[2])
    assert abs(float((eps[0] * eps[2]).mean())) < 0.4 and max_difference(eps[0], eps[2]) > 1


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_antithetic_rows_are_paired_and_the_last_may_be_alone(rows: int) -> None:
    eps = AntitheticNoise("rows")(row_rng(rows, 1), (3, 2))
    assert eps.shape == (rows, 3, 2)
    assert all(torch.equal(eps[i], -eps[i + 1]) for i in range(0, rows - 1, 2))


@pytest.mark.parametrize("per_prompt", [3, 4])
def test_antithetic_rows_are_paired_within_a_prompt(per_prompt: int) -> None:
    def draw(number: int) -> torch.Tensor:
        rng = RowRandom.of_step(RunSeed(1, number), 0, torch.arange(2 * number))
        return AntitheticNoise("rows")(rng, (4,)).reshape(2, number, 4)

    few, more = draw(2), draw(per_prompt)
    assert torch.equal(more[:, :2], few), "more particles per prompt do not change the first"
    assert torch.equal(more[:, 1], -more[:, 0])
    assert not torch.equal(more[1, 0], -more[0, -1]), "a pair of two prompts"


def test_identity_22_a_pair_has_no_variance_with_a_linear_denoiser() -> None:
    prior = GaussianMixture(normal(1, 4, seed=1), torch.tensor([0.7]), schedule=SD)
    condition = Condition(torch.zeros(2, 1, dtype=torch.float64))
    x0, means = normal(1, 4, seed=2).repeat(2, 1), []
    for seed in range(3):
        eps = AntitheticNoise("rows")(row_rng(2, seed), (4,)).double()
        inputs = make_inputs(SD, x0, 0.4, eps, Conditions(condition, condition))
        means.append(SDS(1.0)(prior, inputs, Stateless()).mean(0))
    assert max_difference(means[0], means[1]) < 1e-12
    assert max_difference(means[0], means[2]) < 1e-12


# predicted by the prior


@pytest.mark.parametrize("iterations", [1, 3])
def test_identity_13_predicted_noise_in_a_run_is_rfds_rev(iterations):
    def make_prior():
        return colored_shapes(8, schedule=RectifiedFlowSchedule(), prediction_type="flow")

    options = {"prompts": ("red disc",), "particles": 2, "steps": 1}
    prior, predicted = make_prior(), PredictedNoise(iterations=iterations)
    rfds = Run(Experiment(method=RFDS(5.0), noise=predicted, **options), prior).advance()
    counter = prior.call_counter
    assert (counter.calls, counter.rows) == (iterations + 1, 2 * iterations + 4)
    method = RFDSRev(5.0, iterations=iterations)
    rev = Run(Experiment(method=method, **options), make_prior()).advance()
    assert max_difference(rfds.gradient, rev.gradient) < 1e-6
    if iterations == 1:  # the rest of the step uses the predicted noise
        s = rev.inputs
        eps_hat = prior(s.xt, s.t, s.conditions.pos)[0].eps
        assert max_difference(rfds.inputs.eps, eps_hat) < 1e-6


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (DriftingNoise, {"gamma": 1.5}, "gamma must lie in"),
        (PredictedNoise, {"iterations": 0}, "iterations must be at least 1, not 0"),
        (InvertedNoise, {"inversion_steps": 0}, "inversion_steps must be at least 1, not 0"),
        (InvertedNoise, {"eta": -0.1}, "eta must not be negative, not -0.1"),
    ],
)
def test_options_out_of_range_are_refused(cls: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)
