"""CSD with a negative prompt, NFSD, Stable SD, SteinDreamer, LMC and the image loss of HiFA."""

import copy
import inspect
import re
from dataclasses import dataclass, fields, replace
from math import pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipeline import (
    class_conditions,
    count_calls,
    f64,
    make_inputs,
    max_difference,
    normal,
    rng,
    row_rng,
)
from torch import Tensor

from limbeck.config.discovery import choices
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand
from limbeck.distillation.control_variates import (
    Baseline,
    ConstantBaseline,
    ControlVariate,
    QuadraticBaseline,
)
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.projections.exact import ExactProjection
from limbeck.distillation.projections.identity import IdentityProjection
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.distillation.projections.sampled import SampledProjection
from limbeck.distillation.state import PromptEmbeddings, Stateless
from limbeck.distillation.weights import LambdaWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.base import LatentAndImageGradient, Method
from limbeck.methods.csd import CSD
from limbeck.methods.hifa import HiFA
from limbeck.methods.lmc import LMC
from limbeck.methods.nfsd import NFSD
from limbeck.methods.sds import SDS
from limbeck.methods.stable_sd import StableSD
from limbeck.methods.stein import Stein
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.system.notices import collect_notices
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

TIMES = [0.03, 0.2, 0.5, 0.8, 0.97]
SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
NO_STATE = Stateless()
LABELS = ("red mug", "blue mug", "red chair")
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", TIMES)


def labeled_mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(
        normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=LABELS, schedule=schedule
    )


def gaussian(mean: Tensor, std: float, schedule=SD) -> GaussianMixture:
    return GaussianMixture(mean[None], f64([std]), schedule=schedule)


def one_class(rows: int) -> Conditions:
    return class_conditions(rows, (1.0,), (1.0,))


def prompted_inputs(prior, texts=("mug", "chair"), t=0.5, rows=6, step=0, steps=10):
    """Inputs of a run of these prompts, and the setup of its method."""
    texts_by_row = [texts[i // (rows // len(texts))] for i in range(rows)]
    conditions = Conditions(prior.condition(texts_by_row), prior.condition([""] * rows))
    s = make_inputs(prior.schedule, normal(rows, 4, seed=2), t, normal(rows, 4, seed=3), conditions)
    return replace(s, step=step, steps=steps), SetupContext(rows, len(texts), 0, s.x0, tuple(texts))


def check_resume(
    method, prior, particles: int = 3, steps: int = 6, prompts=("red",), **options
) -> None:
    """Assert that a run resumed half-way equals the uninterrupted one."""
    experiment = Experiment(
        prompts, method=method, particles=particles, steps=steps, seed=3, **options
    )
    whole, first, second = (Run(experiment, prior) for _ in range(3))
    while whole.step < steps:
        whole.advance()
    while first.step < steps // 2:
        first.advance()
    second.load({k: v.clone() for k, v in first.tensors().items()}, first.step)
    while second.step < steps:
        second.advance()
    ends = whole.tensors(), second.tensors()
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


# Prompt embeddings


def test_prompt_embeddings_are_given_to_the_particles_of_each_prompt():
    prior = labeled_mixture()
    setup = SetupContext(6, 2, 0, torch.zeros(6, 4))
    embeddings = PromptEmbeddings(prior, setup, ["red", "blue"], ["chair", "mug"])
    zeros, conditions = torch.zeros(3, 4), class_conditions(3, (1.0,), (1.0,))
    rows = replace(make_inputs(SD, zeros, 0.5, zeros, conditions), particle=torch.tensor([5, 0, 3]))
    first, second = embeddings.for_rows(rows)
    assert torch.equal(first.data, prior.condition(["blue", "red", "blue"]).data)
    assert torch.equal(second.data, prior.condition(["mug", "chair", "mug"]).data)
    assert embeddings.tensors() == {}


def test_prompt_embeddings_reject_a_wrong_number_of_texts():
    with pytest.raises(ValueError, match="one text is needed for each of the 2 prompts, not 3"):
        PromptEmbeddings(labeled_mixture(), SetupContext(6, 2, 0, torch.zeros(6, 4)), ["red"] * 3)


# CSD with a negative prompt


@every_schedule
@pytest.mark.parametrize(("step", "n"), [(0, 0.0), (2, 0.4), (5, 1.0), (9, 1.0)])
def test_csd_has_the_three_coefficients_of_the_code(schedule, step, n):
    """a = 1, b from 0 to -1, c from -1 to 0 over half of the run."""
    prior = labeled_mixture(schedule)
    s, start = prompted_inputs(prior, step=step)
    method = CSD(negative_prompt="blue")
    a, b, c = 1.0, -n, n - 1
    pos, null, neg = prior(
        s.xt, s.t, s.conditions.pos, s.conditions.null, prior.condition(["blue"] * 6)
    )
    expected = a * pos.eps + b * neg.eps + c * null.eps
    assert max_difference(method(prior, s, method.init(prior, start)), expected) < 1e-13


def test_csd_negative_weight_is_annealed():
    method = CSD(negative_prompt="blue", negative_start=1.0, negative_end=0.5, anneal_end=1.0)
    assert [method.negative_weight(k, 10) for k in (0, 5, 10)] == [1.0, 0.75, 0.5]
    method = CSD(negative_prompt="blue", negative_start=0.2, negative_end=0.7, anneal_end=0.0)
    assert method.negative_weight(0, 10) == 0.7


def test_csd_ends_as_csd_with_the_negative_prompt_of_the_run():
    """``--negative-prompt`` gives the same direction from the first step on."""
    prior = labeled_mixture()
    s, start = prompted_inputs(prior, step=9)
    method = CSD(negative_prompt="blue")
    other = replace(s, conditions=Conditions(s.conditions.pos, prior.condition(["blue"] * 6)))
    assert torch.equal(method(prior, s, method.init(prior, start)), CSD()(prior, other, NO_STATE))


@pytest.mark.parametrize(("step", "conditions"), [(0, 2), (2, 3), (5, 2), (9, 2)])
def test_csd_with_negative_prompt_passes(step, conditions):
    prior = labeled_mixture()
    s, start = prompted_inputs(prior, step=step)
    method = CSD(negative_prompt="blue")
    state = method.init(prior, start)
    assert count_calls(prior, lambda: method(prior, s, state))[1] == (1, 6 * conditions)
    assert count_calls(prior, lambda: CSD()(prior, s, CSD().init(prior, start)))[1] == (1, 12)


def test_csd_with_negative_prompt_resumes():
    check_resume(CSD(negative_prompt="blue"), labeled_mixture(), prompts=("red", "chair"))


@pytest.mark.parametrize(
    "options",
    [
        {"negative_start": -0.1},
        {"negative_end": 1.1},
        {"anneal_end": 1.1},
        {"anneal_end": float("nan")},
    ],
)
def test_csd_rejects_bad_options(options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))} must be in \[0, 1\]"):
        CSD(**options)


# NFSD


@every_schedule
@pytest.mark.parametrize("t", [0.2, 0.21, 0.5, 0.97])
@pytest.mark.parametrize("negative", ["", "red blue mug chair"])
def test_identity_14_nfsd_above_the_threshold_without_negative_prompt_is_s_times_csd(
    schedule, t, negative
):
    """Here the negative prompt has the same distribution as null."""
    prior = GaussianMixture(
        normal(2, 4, seed=1), f64([0.3, 0.6]), labels=("red mug", "red mug"), schedule=schedule
    )
    s, start = prompted_inputs(prior, ("mug", "red"), t)
    method = NFSD(7.5, negative_prompt="red mug" if negative else "")
    got = method(prior, s, method.init(prior, start))
    assert max_difference(got, 7.5 * CSD()(prior, s, NO_STATE)) < 1e-12


@every_schedule
@pytest.mark.parametrize(("t", "above"), [(0.03, False), (0.19, False), (0.2, True), (0.8, True)])
def test_nfsd_subtracts_the_negative_prediction_above_the_threshold(schedule, t, above):
    prior = labeled_mixture(schedule)
    s, start = prompted_inputs(prior, t=t)
    method = NFSD(7.5, negative_prompt="blue")
    null, pos, neg = prior(
        s.xt, s.t, s.conditions.null, s.conditions.pos, prior.condition(["blue"] * 6)
    )
    delta_d = null.eps - neg.eps if above else null.eps
    result = method(prior, s, method.init(prior, start))
    expected = 7.5 * (pos.eps - null.eps) + delta_d
    assert max_difference(result, expected) < 1e-13


def test_nfsd_threshold_is_per_row():
    prior = labeled_mixture()
    s, start = prompted_inputs(prior, t=f64([0.1, 0.3, 0.1, 0.3, 0.1, 0.3]))
    method = NFSD(negative_prompt="blue")
    state = method.init(prior, start)
    whole = method(prior, s, state)
    for i in range(6):
        rows = torch.tensor([i])
        one = s.select(rows)
        assert max_difference(method(prior, one, state), whole[rows]) < 1e-13


@pytest.mark.parametrize(("negative", "conditions"), [("blue", 3), ("", 2)])
def test_nfsd_passes(negative, conditions):
    prior = labeled_mixture()
    s, start = prompted_inputs(prior)
    method = NFSD(negative_prompt=negative)
    state = method.init(prior, start)
    assert count_calls(prior, lambda: method(prior, s, state))[1] == (1, 6 * conditions)


def test_nfsd_runs_and_resumes():
    check_resume(NFSD(negative_prompt="blue"), labeled_mixture())


def test_nfsd_has_no_negative_prompt_where_the_model_cannot_read_the_papers(v_folder):
    for prior in (labeled_mixture(), StableDiffusion(str(v_folder))):
        rows, start = prompted_inputs(prior)
        with collect_notices() as notices:
            state = NFSD().init(prior, start)
        assert state.for_rows(rows) == []
        assert [text for text in notices if text.startswith("nfsd: this model cannot read")]


def test_nfsd_uses_the_papers_negative_prompt_where_the_model_can_read_it():
    labels = ("red mug", "blue mug", "dark, dull, gloomy")
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=labels)
    rows, start = prompted_inputs(prior, ("mug", "red"))
    with collect_notices() as notices:
        (negative,) = NFSD().init(prior, start).for_rows(rows)
    assert torch.equal(negative.data, prior.condition(["dark dull gloomy"] * 6).data)
    assert notices == []


def test_nfsd_refuses_a_text_that_the_model_cannot_read(v_folder):
    prior = labeled_mixture()
    message = r"a text of the method: prompt 'ugly' .* words it knows: .*mug.*leave it empty"
    with pytest.raises(ValueError, match=message):
        NFSD(negative_prompt="ugly").init(prior, prompted_inputs(prior)[1])
    prior = StableDiffusion(str(v_folder))
    method = NFSD(negative_prompt="low quality, two striped cats, a blue chair, on grey")
    message = 'a text of the method: .*on grey" is too long for the 12 tokens .* leave it empty'
    with pytest.raises(ValueError, match=message):
        method.init(prior, prompted_inputs(prior)[1])


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_nfsd_rejects_bad_options(threshold):
    with pytest.raises(ValueError, match=r"t_threshold must be a time in \[0, 1\]"):
        NFSD(t_threshold=threshold)


# Stable score distillation


@every_schedule
@every_time
def test_stable_seeking_terms_are_orthogonal_to_the_noise(schedule, t):
    prior = labeled_mixture(schedule)
    s, _ = prompted_inputs(prior, t=t)
    seek = StableSD(1.0)(prior, s, NO_STATE)
    assert float((seek * s.eps).sum(1).abs().max()) < 1e-12
    sds = SDS(1.0)(prior, s, NO_STATE)  # r is the best multiple of each row
    assert bool((seek.norm(dim=1) <= sds.norm(dim=1) + 1e-12).all())
    result = StableSD(7.5)(prior, s, NO_STATE) - seek
    expected = 6.5 * CSD()(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-12


@every_time
def test_identity_03_r_of_stable_sd_is_the_best_multiple_at_the_mean(t):
    """Identity 3: on a Gaussian of variance C it is sigma^2 / (alpha^2 C + sigma^2)."""
    d, c = 40, 0.49
    prior = gaussian(torch.zeros(d, dtype=torch.float64), sqrt(c))
    x0 = torch.zeros(2, d, dtype=torch.float64)
    s = make_inputs(SD, x0, t, normal(2, d, seed=3), one_class(2))
    a2, s2 = float(SD.alpha(s.t[:1])) ** 2, float(SD.sigma(s.t[:1])) ** 2
    best = s2 / (a2 * c + s2)
    r = 1 - (SDS(1.0)(prior, s, NO_STATE) - StableSD(1.0)(prior, s, NO_STATE))[:, 0] / -s.eps[:, 0]
    assert max_difference(r, f64([best, best])) < 1e-12
    assert max_difference(StableSD(1.0)(prior, s, NO_STATE), torch.zeros(2, d)) < 1e-12


def test_stable_t_seeking_is_per_row():
    prior = labeled_mixture()
    s, _ = prompted_inputs(prior, t=f64([0.1, 0.4, 0.5, 0.6, 0.9, 0.2]))
    direction = StableSD(7.5, t_seeking=0.5)(prior, s, NO_STATE)
    below = torch.tensor([0, 1, 2, 5])
    assert max_difference(direction[below], StableSD(7.5)(prior, s, NO_STATE)[below]) == 0
    disengaging = 6.5 * CSD()(prior, s, NO_STATE)
    assert max_difference(direction[3:5], disengaging[3:5]) < 1e-13


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 12), (1.0, 6)])
def test_stable_passes(guidance, rows):
    prior = labeled_mixture()
    s, _ = prompted_inputs(prior)
    assert count_calls(prior, lambda: StableSD(guidance)(prior, s, NO_STATE))[1] == (1, rows)


@pytest.mark.parametrize("seeking", [-0.1, 1.1, float("nan")])
def test_stable_rejects_bad_options(seeking):
    with pytest.raises(ValueError, match=r"t_seeking must be a time in \[0, 1\]"):
        StableSD(t_seeking=seeking)


# Stein


@dataclass(frozen=True)
class NonlinearBaseline(Baseline):
    """A baseline without structure."""

    def __call__(self, xt, t):
        return (xt.sin() * t[:, None]).sum(1) + (0.3 * xt.prod(1)).exp()


@pytest.mark.parametrize(
    "phi",
    [ConstantBaseline(), QuadraticBaseline(), NonlinearBaseline()],
    ids=lambda p: type(p).__name__,
)
@every_time
def test_identity_21_stein_control_variate_has_mean_zero(phi, t):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weights = torch.tensor(np.outer(weights, weights).reshape(-1, 1) / (2 * pi))
    eps, time = torch.tensor(grid), torch.full((len(grid),), t, dtype=torch.float64)
    x = f64([0.7, -0.4]).expand(len(grid), 2)
    z, sigma = SD.add_noise(x, eps, time), SD.sigma(time)

    def mean(sigma):
        variate = ControlVariate(z, eps, time, sigma)(phi)
        return float((weights * variate).sum(0).abs().max())

    assert mean(sigma) < 1e-9
    if not isinstance(phi, ConstantBaseline):
        assert mean(-sigma) > 1e-3  # the other sign has not mean zero


def test_stein_control_variate_is_its_formula():
    z, eps, sigma = normal(5, 4, seed=2), normal(5, 4, seed=3), f64([0.1, 0.3, 0.5, 0.7, 0.9])
    assert torch.equal(ControlVariate(z, eps, sigma, sigma)(ConstantBaseline()), eps)
    expected = z.square().mean(1, keepdim=True) / 2 * eps - sigma[:, None] * z / 4
    result = ControlVariate(z, eps, sigma, sigma)(QuadraticBaseline())
    assert max_difference(result, expected) < 1e-15


def test_stein_mu_depends_on_earlier_steps_only():
    prior = labeled_mixture()
    s, start = prompted_inputs(prior)
    method = Stein(7.5, QuadraticBaseline())
    state = method.init(prior, start)
    sds = SDS(7.5)(prior, s, NO_STATE)
    assert torch.equal(method(prior, s, state), sds)
    assert torch.equal(method(prior, s, state), sds)  # only fit changes mu
    method.fit(prior, s, state)
    other = replace(s, eps=normal(6, 4, seed=9))
    zeta = ControlVariate(other.xt, other.eps, s.t, SD.sigma(s.t))(QuadraticBaseline())
    earlier = ControlVariate(s.xt, s.eps, s.t, SD.sigma(s.t))(QuadraticBaseline())
    mu = -(sds * earlier).sum(1) / earlier.square().sum(1)
    expected = SDS(7.5)(prior, other, NO_STATE) + mu[:, None] * zeta
    assert max_difference(method(prior, other, state), expected) < 1e-12


@every_time
def test_stein_has_no_variance_at_the_mean_of_a_gaussian(t):
    mean = f64([0.4, -0.2, 0.1, 0.9])
    prior = gaussian(mean, 0.7)
    s = make_inputs(SD, mean.expand(3, 4), t, normal(3, 4, seed=3), one_class(3))
    method = Stein(1.0)
    state = method.init(prior, SetupContext(3, 1, 0, s.x0))
    method(prior, s, state)
    method.fit(prior, s, state)
    for seed in (4, 5):
        other = replace(s, eps=normal(3, 4, seed=seed))
        assert max_difference(method(prior, other, state), torch.zeros(3, 4)) < 1e-12


@pytest.mark.slow
def test_stein_reduces_the_variance_and_keeps_the_mean():
    prior = gaussian(torch.zeros(64, dtype=torch.float64), 0.7)
    x = normal(1, 64, seed=2).expand(400, 64)
    start = SetupContext(400, 1, 0, x)
    method = Stein(1.0, ema_decay=1.0)
    state = method.init(prior, start)
    for seed in range(40):
        s = make_inputs(SD, x, 0.2, normal(400, 64, seed=seed), one_class(400))
        method(prior, s, state)
        method.fit(prior, s, state)
    s = make_inputs(SD, x, 0.2, normal(400, 64, seed=99), one_class(400))
    stein, sds = method(prior, s, state), SDS(1.0)(prior, s, NO_STATE)
    assert float(stein.var(0).sum()) < 0.05 * float(sds.var(0).sum())
    mean = SDS(1.0)(prior, replace(s, eps=torch.zeros_like(x)), NO_STATE).mean(0)
    error = (stein.mean(0) - mean).square().mean().sqrt()
    assert float(error) < 3 * sqrt(float(stein.var(0).mean()) / 400)


def test_stein_has_a_mu_per_particle_and_time_bin():
    prior = labeled_mixture()
    s, start = prompted_inputs(prior, t=f64([0.05, 0.15, 0.55, 0.95, 1.0, 0.55]))
    method = Stein(7.5, ema_decay=0.5)
    state = method.init(prior, start)
    for _ in range(2):
        method(prior, s, state)
        method.fit(prior, s, state)
    used = state.sums[1] > 0
    assert used.nonzero().tolist() == [[0, 0], [1, 1], [2, 5], [3, 9], [4, 9], [5, 5]]
    assert max_difference(state.sums[1][used], 1.5 * s.eps.square().sum(1)) < 1e-12


def test_stein_sums_over_rows_of_a_particle():
    prior = labeled_mixture()
    s, start = prompted_inputs(prior)
    s = replace(s, particle=torch.tensor([0, 0, 1, 1, 2, 2]))
    method = Stein(7.5)
    state = method.init(prior, start)
    method(prior, s, state)
    method.fit(prior, s, state)
    assert max_difference(state.sums[1, :3, 5], s.eps.square().sum(1).view(3, 2).sum(1)) < 1e-12


def test_stein_resumes_and_passes_as_sds():
    prior, method = labeled_mixture(), Stein(7.5, QuadraticBaseline())
    check_resume(method, labeled_mixture())
    run = Run(Experiment(("red",), method=method, particles=3, steps=2), prior)
    assert count_calls(prior, run.advance)[1] == (1, 6)


@pytest.mark.parametrize(
    "options",
    [{"num_bins": 0}, {"ema_decay": -0.1}, {"ema_decay": 1.1}, {"ema_decay": float("nan")}],
)
def test_stein_rejects_bad_options(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        Stein(**options)


# LMC


def pair(null: Tensor, pos: Tensor, std: float, schedule) -> GaussianMixture:
    """Null is N(null, std^2), the prompt N(pos, std^2)."""
    return GaussianMixture(torch.stack([null, pos]), f64([std, std]), schedule=schedule)


def pair_inputs(schedule, t, rows: int = 6):
    conditions = class_conditions(rows, (1.0, 0.0), (0.0, 1.0))
    return make_inputs(schedule, normal(rows, 4, seed=2), t, normal(rows, 4, seed=3), conditions)


@every_schedule
@every_time
def test_identity_15_lmc_with_the_identity_is_sds(schedule, t):
    prior = labeled_mixture(schedule)
    s, start = prompted_inputs(prior, t=t)
    method = LMC(7.5, IdentityProjection())
    result = method(prior, s, method.init(prior, start))
    expected = SDS(7.5)(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-10


@every_schedule
@every_time
def test_identity_15_lmc_with_the_exact_projection_is_csd_and_a_control_variate(schedule, t):
    prior, s = pair(normal(4, seed=5), normal(4, seed=6), 0.7, schedule), pair_inputs(schedule, t)
    method = LMC(7.5, ExactProjection())
    a2, b2 = schedule.alpha(s.t) ** 2, schedule.sigma(s.t) ** 2
    expected = 7.5 * CSD()(prior, s, NO_STATE) - expand(a2 * 0.49 / (a2 * 0.49 + b2), s.eps) * s.eps
    result = method(prior, s, method.init(prior, SetupContext(6, 1, 0, s.x0)))
    assert max_difference(result, expected) < 1e-10


@every_schedule
def test_sampled_projection_of_a_gaussian_is_exact_and_ignores_eps(schedule):
    prior, s = pair(normal(4, seed=5), normal(4, seed=6), 0.7, schedule), pair_inputs(schedule, 0.5)
    start = SetupContext(6, 1, 0, s.x0)
    exact = ExactProjection().build(prior, start)(prior, s)
    sampled = SampledProjection(1).build(prior, start)(prior, s)
    # antithetic pairs are exact if the denoiser is linear
    assert max_difference(exact, sampled) < 1e-12
    nonlinear = labeled_mixture(schedule)
    s, start = prompted_inputs(nonlinear)
    b = SampledProjection(2).build(nonlinear, start)
    first = b(nonlinear, replace(s, rng=row_rng(6, 1)))
    second = b(nonlinear, replace(s, eps=normal(6, 4, seed=9), rng=row_rng(6, 1)))
    assert torch.equal(first, second)


def test_sampled_projection_is_the_mean_over_the_noise():
    prior = GaussianMixture(f64([-0.8, 0.9])[:, None], f64([0.2, 0.3]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    eps, weights = torch.tensor(nodes)[:, None], torch.tensor(weights / sqrt(2 * pi))[:, None]
    x, conditions, t = f64([0.1]), class_conditions(120, (1.0, 1.0), (1.0, 1.0)), 0.5
    s = make_inputs(SD, x.expand(120, 1), t, eps, conditions)
    x0_hat = prior(s.xt, s.t, conditions.null)[0].x0
    mean = (weights * x0_hat).sum()
    one = s.select(torch.tensor([0]))
    sampled = SampledProjection(20_000).build(prior, SetupContext(1, 1, 0, x[None]))(prior, one)
    assert abs(float(sampled) - float(mean)) < 0.01
    assert float((weights * (x0_hat - mean) ** 2).sum()) > 0.1  # the mean is over much variance


@pytest.mark.parametrize("shape", [(4,), (3, 8, 8)], ids=str)
def test_learned_projection_starts_as_the_identity(shape):
    prior = GaussianMixture(normal(3, *shape, seed=1), f64([0.3, 0.6, 1.0]), labels=LABELS)
    conditions = Conditions(prior.condition(["mug"] * 2), prior.condition([""] * 2))
    s = make_inputs(SD, normal(2, *shape, seed=2), 0.5, normal(2, *shape, seed=3), conditions)
    method = LMC(7.5, LearnedProjection(num_images=0))
    result = method(prior, s, method.init(prior, SetupContext(2, 1, 0, s.x0)))
    expected = SDS(7.5)(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-06


@pytest.mark.parametrize("num_images", [0, 64])
def test_learned_projection_approximates_the_exact_one(num_images):
    mean = f64([0.5, -0.5, 0.2, 0.1])
    prior = gaussian(mean, 0.5)
    x = mean + 0.5 * normal(64, 4, seed=2)
    start = SetupContext(64, 1, 0, x)
    pretraining = {"ddim_steps": 10, "pretrain_steps": 250, "batch_size": 32} if num_images else {}
    b = LearnedProjection(num_images, **pretraining, lr=5e-3).build(prior, start)
    for seed in range(0 if num_images else 250):
        t = 0.02 + 0.96 * torch.rand(64, generator=rng(seed)).double()
        s = make_inputs(SD, x, t, normal(64, 4, seed=seed), one_class(64))
        metrics = b.fit(s, prior(s.xt, s.t, s.conditions.null)[0].x0)
        assert float(metrics["projection"]) >= 0
    for t in (0.2, 0.5, 0.8):
        s = make_inputs(SD, x, t, normal(64, 4, seed=1), one_class(64))
        exact = ExactProjection().build(prior, start)(prior, s)
        error = (b(prior, s) - exact).square().mean()
        assert float(error) < 0.2 * float((x - exact).square().mean())


def test_options_of_a_pretraining_that_is_left_out_are_refused():
    with pytest.raises(ValueError, match="pretrain_steps 500 has no effect with num_images 0"):
        LearnedProjection(num_images=0, pretrain_steps=500)


def test_pretrained_projection_is_not_trained_further():
    prior = labeled_mixture()
    s, start = prompted_inputs(prior)
    b = LearnedProjection(4, ddim_steps=2, pretrain_steps=2, batch_size=2).build(prior, start)
    before = {k: v.clone() for k, v in b.tensors().items()}
    assert b.fit(s, s.x0) == {}
    assert all(torch.equal(before[k], v) for k, v in b.tensors().items())


@pytest.mark.parametrize(
    "b",
    [
        IdentityProjection(),
        SampledProjection(2),
        LearnedProjection(num_images=0),
        LearnedProjection(4, ddim_steps=2, pretrain_steps=3, batch_size=2),
    ],
    ids=["identity", "sampled", "trained-in-run", "pretrained"],
)
def test_lmc_runs_and_resumes(b):
    check_resume(LMC(7.5, b), labeled_mixture())


@pytest.mark.parametrize(
    ("guidance", "b", "cost"),
    [
        (7.5, IdentityProjection(), (1, 12)),
        (0.0, IdentityProjection(), (1, 6)),
        (7.5, LearnedProjection(num_images=0), (1, 12)),
        (7.5, SampledProjection(3), (2, 12 + 36)),
    ],
)
def test_lmc_passes(guidance, b, cost):
    prior = labeled_mixture()
    run = Run(Experiment(("red",), method=LMC(guidance, b), particles=6, steps=1), prior)
    assert count_calls(prior, run.advance)[1] == cost


def test_projection_pretraining_passes():
    prior = labeled_mixture()
    _, start = prompted_inputs(prior)
    projection = LearnedProjection(8, ddim_steps=5, pretrain_steps=7, batch_size=2)
    _, passes = count_calls(prior, lambda: projection.build(prior, start))
    assert passes == (5 + 7, 5 * 8 + 7 * 2)


def test_exact_projection_rejects_priors_without_closed_form():
    prior = labeled_mixture()
    s, start = prompted_inputs(prior)
    with pytest.raises(ValueError, match="names one Gaussian, not 3: use sampled"):
        ExactProjection().build(prior, start)(prior, s)
    data = DataSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="not DataSet: use sampled or learned"):
        ExactProjection().build(data, start)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SampledProjection(0),
        lambda: LearnedProjection(width=0),
        lambda: LearnedProjection(num_images=-1),
        lambda: LearnedProjection(lr=float("nan")),
    ],
)
def test_projections_refuse(build):
    with pytest.raises(ValueError, match=r"at least 1|not be negative"):
        build()


# The image loss of HiFA


class CountingMixture(GaussianMixture):
    """Records whether each call of decode was with gradients."""

    def __post_init__(self):
        super().__post_init__()
        self.decoded = []

    def decode(self, x0):
        self.decoded.append(torch.is_grad_enabled())
        return super().decode(x0)


def image_mixture() -> CountingMixture:
    return CountingMixture(0.4 * normal(2, 3, 8, 8, seed=1), f64([0.3, 0.5]))


def image_inputs(image: bool, t=0.5):
    conditions = class_conditions(4, (1.0, 1.0), (0.2, 0.8))
    s = make_inputs(SD, 0.5 * normal(4, 3, 8, 8, seed=2), t, normal(4, 3, 8, 8, seed=3), conditions)
    if not image:
        return s
    return replace(s, image=torch.rand(4, 3, 8, 8, generator=rng(4)).double())


@every_time
def test_hifa_image_term_of_a_rendered_image(t):
    prior, s = image_mixture(), image_inputs(True, t)
    both = HiFA(7.5, lambda_rgb=0.3)(prior, s, NO_STATE)
    latent_term = HiFA(7.5, lambda_rgb=0.0)(prior, s, NO_STATE)
    assert isinstance(both, LatentAndImageGradient) and torch.equal(both.x0, latent_term)
    lam = expand(LambdaWeight()(SD, s.t), s.x0)
    decoded = prior.decode(s.x0 - lam * latent_term)
    assert max_difference(lam * both.image, 0.3 * (s.image - decoded)) < 1e-10


@every_time
def test_hifa_image_term_of_latents_runs_through_the_decoder(t):
    prior, s = image_mixture(), image_inputs(False, t)
    latent_term = HiFA(7.5, lambda_rgb=0.0)(prior, s, NO_STATE)
    both = HiFA(7.5, lambda_rgb=0.3)(prior, s, NO_STATE)
    lam = expand(LambdaWeight()(SD, s.t), s.x0)
    inside = (s.x0.abs() < 1).double()  # the clamp of the decoder has no gradient elsewhere
    assert 0 < float(inside.mean()) < 1
    residual = prior.decode(s.x0) - prior.decode(s.x0 - lam * latent_term)
    expected = latent_term + 0.3 / lam * inside / 2 * residual
    assert max_difference(both, expected) < 1e-10


@pytest.mark.parametrize(
    ("image", "weight", "decoded"),
    [
        (True, 0.01, [False]),
        (False, 0.01, [False, True]),
        (True, 0.0, []),
        (False, 0.0, []),
    ],
)
def test_hifa_decoder_passes(image, weight, decoded):
    prior, s = image_mixture(), image_inputs(image)
    before = prior.call_counter.calls
    HiFA(7.5, lambda_rgb=weight)(prior, s, NO_STATE)
    assert prior.decoded == decoded and prior.call_counter.calls - before == 4


@pytest.mark.parametrize(
    ("representation", "weight", "decoded"),
    [
        (Pixels(num_levels=3), 0.01, [(3, False)]),
        (Latents(), 0.01, [(3, False), (3, True)]),
        (Pixels(num_levels=3), 0.0, []),
        (Latents(), 0.0, []),
    ],
)
def test_hifa_decoder_passes_on_a_network(prior, representation, weight, decoded):
    rows = []
    prior.vae.decoder.register_forward_hook(
        lambda m, inputs, out: rows.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    experiment = Experiment(
        ("a red mug",),
        method=HiFA(7.5, 2, weight),
        representation=representation,
        particles=3,
        steps=2,
    )
    run = Run(experiment, prior)
    rows.clear()
    while run.step < 2:
        assert bool(run.advance().gradient.isfinite().all())
    assert rows == decoded * 2
    assert all(p.grad is None for p in prior.vae.parameters())


def test_hifa_descends_the_loss_of_the_paper():
    """w (|x - x0_hat|^2 + .3 |image - D(x0_hat)|^2) / 2 by autograd, against a step of a run."""
    prior = image_mixture()
    experiment = Experiment(
        ("x",),
        method=HiFA(1.0, 2, 0.3),
        representation=Pixels(num_levels=2),
        weight=LambdaWeight(),
        optimizer=SGD(),
        particles=2,
        steps=1,
    )
    run = Run(experiment, prior)
    before = copy.deepcopy(run.representation)
    s = run.advance().inputs
    render = before.render(RenderRequest(torch.arange(2)))
    image = render.image
    x0 = prior.encode(image)
    conditions = replace(s.conditions, denoise_steps=2)
    x0_hat = guided_prediction(prior, s.xt, s.t, conditions, 1.0).x0
    image_loss = (image - prior.decode(x0_hat)).square().sum() / 2
    loss = (x0 - x0_hat).square().sum() / 2 + 0.3 * image_loss
    (loss + sum(before.regularize(render, 0.0).values())).backward()
    for group, old in zip(run.optimizer.param_groups, before.param_groups(), strict=True):
        for now, then in zip(group["params"], old["params"], strict=True):
            moved = (then - now).detach() / group["lr"]
            assert float(moved.abs().max()) > 1e-3
            assert max_difference(moved, then.grad) < 1e-5 * float(then.grad.abs().max())


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_hifa_rejects_a_negative_lambda_rgb(weight):
    with pytest.raises(ValueError, match="lambda_rgb must be at least 0"):
        HiFA(lambda_rgb=weight)


# All methods


@pytest.mark.parametrize(
    "method",
    [
        CSD(negative_prompt="blue"),
        NFSD(negative_prompt="blue"),
        StableSD(),
        Stein(7.5, QuadraticBaseline()),
        LMC(7.5, IdentityProjection()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch(method):
    prior = labeled_mixture()
    s, start = prompted_inputs(prior, t=f64([0.05, 0.3, 0.5, 0.75, 0.95, 0.1]), step=2)
    state = method.init(prior, start)
    for _ in range(2):  # what fit learns for a particle depends on its rows only
        whole = method(prior, s, state)
        method.fit(prior, s, state)
    for i in range(6):
        one, state = s.select(torch.tensor([i])), method.init(prior, start)
        for _ in range(2):
            direction = method(prior, one, state)
            method.fit(prior, one, state)
        assert max_difference(direction, whole[i : i + 1]) < 1e-12


def test_each_method_has_its_cost_and_a_page_with_all_options():
    pages = Path(__file__).parents[2] / "docs" / "methods"
    for name, cls in choices(Method).items():
        assert cls.passes and cls.bibtex.startswith("@") and isinstance(cls.backward, str), name
        assert cls.bibtex.replace("\n", "").isprintable(), name
        assert cls.bibtex.count("{") == cls.bibtex.count("}"), name
        page = (pages / f"{name}.md").read_text()
        for option in fields(cls):
            flag = f"--method.{option.name.replace('_', '-')}"
            assert re.search(rf"{re.escape(flag)}(?![\w-])", page), (name, flag)
        assert inspect.getdoc(cls)


def test_stable_sd_by_time_has_one_term_at_a_time_of_one_norm():
    prior = labeled_mixture()
    s, _ = prompted_inputs(prior)
    s = replace(s, t=SD.snap(f64([0.05, 0.09, 0.11, 0.3, 0.6, 0.9])))
    y, guidance = s.conditions, 7.5
    pos, null = (guided_prediction(prior, s.xt, s.t, y, scale).eps for scale in (1.0, 0.0))
    h = guidance * (pos - null)
    direction = StableSD(guidance, 0.1, "by-time")(prior, s, NO_STATE)
    assert max_difference(direction[2:], h[2:]) < 1e-12
    assert max_difference(direction.norm(dim=1), h.norm(dim=1)) < 1e-12
    # below M it is orthogonal to the noise, in the direction of the seeking terms
    assert (direction * s.eps)[:2].sum(1).abs().max() < 1e-10
    seeking = StableSD(1.0)(prior, s, NO_STATE)
    cosine = (direction * seeking).sum(1) / (direction.norm(dim=1) * seeking.norm(dim=1))
    assert max_difference(cosine[:2], f64([1.0, 1.0])) < 1e-12
    with pytest.raises(ValueError, match="order by-time has only terms that guidance 0 removes"):
        StableSD(0.0, order="by-time")
