"""DDIM along given times, inverted noise, SDI and DSD: identities, passes, resuming, options."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_pipeline import (
    class_conditions,
    count_calls,
    f64,
    make_inputs,
    max_difference,
    normal,
    row_rng,
)
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times, implied_noise, posterior_std, run_ddim
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import FixedPerParticleNoise, InvertedNoise, PredictedNoise
from limbeck.distillation.state import Stateless
from limbeck.distillation.weights import LambdaWeight
from limbeck.methods.dsd import DSD
from limbeck.methods.ism import ISM
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.priors.exact import GaussianMixture
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

TIMES = [0.03, 0.2, 0.5, 0.8, 0.97]
SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
NO_STATE = Stateless()
SHARES = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", TIMES)


def mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)


def five_rows(schedule=SD, t: Tensor | float = 0.5):
    return make_inputs(
        schedule, normal(5, 4, seed=2), t, normal(5, 4, seed=3), class_conditions(5, *SHARES)
    )


def gaussian(std: float, schedule=SD) -> tuple[GaussianMixture, Tensor]:
    mean = f64([0.4, -0.3])
    return GaussianMixture(mean[None], f64([std]), schedule=schedule), mean


def one_class(rows: int) -> Conditions:
    return class_conditions(rows, (1.0,), (1.0,))


def state_of(method, prior, s):
    return method.init(prior, SetupContext(len(s.x0), 1, 0, s.x0.detach()))


# DDIM along given times


@every_schedule
def test_ddim_times_are_even_and_end_at_t(schedule):
    end = schedule.snap(f64([0.0, 0.04, 0.35, 0.4, 1.0]))
    up, down = (torch.stack(ddim_times(schedule, end, start, 5)) for start in (0, 1))
    assert up.shape == down.shape == (6, 5)
    assert bool((up.diff(dim=0) >= 0).all()) and bool((down.diff(dim=0) <= 0).all())
    assert torch.equal(up[-1], end) and torch.equal(down[-1], end)
    assert max_difference(up[:, 2], schedule.snap(f64([0, 0.2, 0.35, 0.35, 0.35, 0.35]))) == 0
    assert max_difference(down[:, 2], schedule.snap(f64([1.0, 0.8, 0.6, 0.4, 0.35, 0.35]))) == 0


def test_ddim_times_rejects_zero_steps():
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        ddim_times(SD, f64([0.5]), 0, 0)


@every_schedule
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, -6.5])
def test_run_ddim_is_ddim_row_by_row(schedule, scale):
    prior, s = mixture(schedule), five_rows(schedule)
    end = schedule.snap(f64([0.1, 0.05, 0.45, 0.7, 0.9]))
    times = ddim_times(schedule, end, 0, 4)
    end_x, passes = count_calls(prior, lambda: run_ddim(prior, s.x0, s.conditions, times, scale))
    strides = 0
    for i in range(5):
        x, conditions = s.x0[i : i + 1], s.conditions[i : i + 1]
        for now, later in pairwise(times):
            if float(later[i]) > float(now[i]):
                prediction = guided_prediction(prior, x, now[i : i + 1], conditions, scale)
                x = schedule.add_noise(prediction.x0, prediction.eps, later[i : i + 1])
                strides += 1
        assert max_difference(end_x[i : i + 1], x) < 1e-12
    assert strides == 1 + 1 + 2 + 3 + 4
    assert passes == (4, strides * (1 if scale in (0, 1) else 2))


def test_run_ddim_down_the_sampling_times_is_the_sampler():
    prior, s = mixture(), five_rows()
    times = [t.expand(5) for t in SD.sampling_times(20)]
    z = run_ddim(prior, s.eps, s.conditions, times, 3.0)
    x0_hat = guided_prediction(prior, z, times[-1], s.conditions, 3.0).x0
    assert max_difference(x0_hat, sample_x0(prior, s.conditions, s.eps, 20, 3.0)) < 1e-12


@every_schedule
def test_run_ddim_there_and_back_is_the_identity_to_first_order(schedule):
    """Without guidance: then DDIM follows an ODE."""
    prior, s = mixture(schedule), five_rows(schedule)
    errors = []
    for n in (250, 500):
        times = [schedule.snap(f64([0.1 + 0.7 * k / n] * 5)) for k in range(n + 1)]
        end = run_ddim(prior, s.x0, s.conditions, times, 1.0)
        start = run_ddim(prior, end, s.conditions, times[::-1], 1.0)
        errors.append(max_difference(start, s.x0))
    assert errors[1] < 0.02 and 1.8 < errors[0] / errors[1] < 2.2


@every_schedule
def test_posterior_std_is_that_of_bayes_rule(schedule):
    now, later = schedule.snap(f64([0.1, 0.5, 0.7])), schedule.snap(f64([0.3, 0.6, 0.95]))
    a, s = schedule.alpha(now), schedule.sigma(now)
    b, r = schedule.alpha(later), schedule.sigma(later)
    # x_now = a x0 + s eps, and x_later = (b / a) x_now + fresh noise
    fresh_variance = r**2 - (b * s / a) ** 2
    posterior_variance = 1 / (1 / s**2 + (b / a) ** 2 / fresh_variance)
    assert max_difference(posterior_std(schedule, now, later) ** 2, posterior_variance) < 1e-12
    if schedule is SD:
        in_diffusers = (s / r) ** 2 * (1 - (b / a) ** 2)
        assert max_difference(posterior_variance, in_diffusers) < 1e-12


def test_run_ddim_eta_adds_noise_from_the_generator():
    prior, s = mixture(), five_rows()
    t = torch.full((5,), 0.1, dtype=torch.float64)
    times = [torch.zeros_like(t), t]
    plain = run_ddim(prior, s.x0, s.conditions, times, 1.0, 0.0, row_rng(5, 5))
    noisy = run_ddim(prior, s.x0, s.conditions, times, 1.0, 0.3, row_rng(5, 5))
    fresh = row_rng(5, 5).normal("stride 0", 4).double()
    expected = 0.3 * expand(posterior_std(SD, *times), s.x0) * fresh
    assert max_difference(noisy - plain, expected) < 1e-12


@every_schedule
@every_time
def test_implied_noise_recovers_the_added_noise(schedule, t):
    s = five_rows(schedule, t)
    assert max_difference(implied_noise(schedule, s.x0, s.xt, s.t), s.eps) < 1e-12


# Identity 19


@every_time
def test_identity_19_direction_is_zero_at_the_exact_kappa(t):
    prior, mean = gaussian(0.7)
    s = make_inputs(SD, normal(6, 2, seed=2), t, normal(6, 2, seed=3), one_class(6))
    kappa = expand(SD.sigma(s.t) / SD.alpha(s.t), s.x0) * (s.x0 - mean) / 0.49
    direction = SDS(1.0)(prior, replace(s, eps=kappa), NO_STATE)
    assert max_difference(direction, torch.zeros(6, 2)) < 1e-12


@every_schedule
@pytest.mark.parametrize("t", [0.15, 0.3, 0.5])
def test_identity_19_rate_of_the_fixed_point_iteration(schedule, t):
    prior, mean = gaussian(0.7, schedule)
    s = make_inputs(schedule, normal(6, 2, seed=2), t, normal(6, 2, seed=3), one_class(6))
    a, b = schedule.alpha(s.t[:1]), schedule.sigma(s.t[:1])
    kappa = b / a * (s.x0 - mean) / 0.49
    rate = b**2 / (a**2 * 0.49 + b**2)
    for iterations in (1, 2, 5):
        eps = PredictedNoise(1.0, iterations).refine(prior, s)
        assert max_difference(eps - kappa, rate**iterations * (s.eps - kappa)) < 1e-12


@pytest.mark.parametrize("t", [0.3, 0.5, 0.8])
def test_identity_19_inversion_finds_the_kappa_of_the_ode(t):
    schedule = CosineSchedule()
    prior, mean = gaussian(0.7, schedule)
    s = make_inputs(schedule, normal(6, 2, seed=2), t, normal(6, 2, seed=3), one_class(6))
    a, b = schedule.alpha(s.t[:1]), schedule.sigma(s.t[:1])
    of_ode = ((a**2 * 0.49 + b**2).sqrt() / 0.7 - a) * (s.x0 - mean) / b
    exact = b / a * (s.x0 - mean) / 0.49
    noises = [InvertedNoise(1.0, n, eta=0.0).refine(prior, s) for n in (100, 200, 400)]
    errors = [max_difference(noise, of_ode) for noise in noises]
    assert errors[2] < 0.02 < max_difference(of_ode, exact)
    assert all(1.8 < left / right < 2.2 for left, right in pairwise(errors))


# SDI


@every_schedule
@pytest.mark.parametrize("t", [0.2, 0.5, 0.93])
def test_sdi_is_sds_at_the_inverted_noise(schedule, t):
    prior, s = mixture(schedule), five_rows(schedule, t)
    method = SDI(8.5, inversion_eta=0.0)
    sdi = method(prior, s, state_of(method, prior, s))
    noise = InvertedNoise(eta=0.0).refine(prior, s)
    assert max_difference(sdi, SDS(8.5)(prior, replace(s, eps=noise), NO_STATE)) < 1e-10
    xt = schedule.add_noise(s.x0, noise, s.t)
    residual = s.x0 - guided_prediction(prior, xt, s.t, s.conditions, 8.5).x0
    assert max_difference(expand(LambdaWeight()(schedule, s.t), s.x0) * sdi, residual) < 1e-10


def test_sdi_draws_like_inverted_noise():
    prior, s = mixture(), five_rows()
    sdi = SDI(8.5)(prior, replace(s, rng=row_rng(5, 4)), state_of(SDI(), prior, s))
    noise = InvertedNoise().refine(prior, replace(s, rng=row_rng(5, 4)))
    assert max_difference(sdi, SDS(8.5)(prior, replace(s, eps=noise), NO_STATE)) < 1e-10
    without_eta = SDI(8.5, inversion_eta=0.0)(prior, s, state_of(SDI(), prior, s))
    assert max_difference(sdi, without_eta) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("steps", [5, 25])
def test_identity_20_sdi_with_cached_kappa_is_the_sampler(scale, steps):
    prior, s = mixture(), five_rows()
    method = SDI(scale, "cached")
    x = torch.zeros_like(s.x0)
    state = state_of(method, prior, s)
    z, times = s.eps * SD.sigma(SD.sampling_times(steps)[:1]), SD.sampling_times(steps)
    for k, t in enumerate(times):
        now = t.expand(5)
        prediction = guided_prediction(prior, z, now, s.conditions, scale)
        eps = s.eps if k == 0 else normal(5, 4, seed=50 + k)
        step = replace(make_inputs(SD, x, now, eps, s.conditions), step=k, steps=steps)
        x = x - expand(LambdaWeight()(SD, now), x) * method(prior, step, state)
        assert max_difference(x, prediction.x0) < 1e-11  # x0_hat of the sampler at each step
        if k + 1 < steps:
            z = SD.add_noise(prediction.x0, prediction.eps, times[k + 1].expand(5))
    expected = sample_x0(prior, s.conditions, s.eps * SD.sigma(times[:1]), steps, scale)
    assert max_difference(x, expected) < 1e-11


@pytest.mark.parametrize("kappa", ["inverted", "cached"])
def test_sdi_refreshes_its_target_every_few_steps(kappa):
    prior, s = mixture(), five_rows()
    method = SDI(8.5, kappa, inversion_eta=0.0, refresh_every=3)
    state, refreshed = state_of(method, prior, s), None
    lambda_t = expand(LambdaWeight()(SD, s.t), s.x0)
    for k in range(7):
        step = replace(s, x0=s.x0 + 0.1 * k, step=k, steps=7)
        direction, passes = count_calls(prior, lambda step=step: method(prior, step, state))
        assert (passes[0] > 0) == (k % 3 == 0)
        target = step.x0 - lambda_t * direction
        if k % 3 == 0:
            refreshed = target
        assert max_difference(target, refreshed) < 1e-12


def test_sdi_refreshes_particles_that_missed_the_last_refresh():
    prior, s = mixture(), five_rows()
    method = SDI(8.5, inversion_eta=0.0, refresh_every=3)
    state = state_of(method, prior, s)
    first, rest = torch.tensor([0, 3]), torch.tensor([1, 2, 4])
    method(prior, s.select(first), state)
    assert state.last_update.tolist() == [0, -1, -1, 0, -1]
    direction, passes = count_calls(prior, lambda: method(prior, replace(s, step=1), state))
    assert passes[1] == 3 * (5 * 2 + 2)  # of the three others, five steps to t = .5
    uncached = SDI(8.5, inversion_eta=0.0)
    expected = uncached(prior, s, state_of(uncached, prior, s))
    assert max_difference(direction[rest], expected[rest]) < 1e-12


def test_sdi_renoise_jitter():
    prior, s = mixture(), five_rows()
    method = SDI(8.5, inversion_eta=0.0, renoise_jitter=True)
    direction = method(prior, replace(s, rng=row_rng(5, 4)), state_of(method, prior, s))
    later = SD.snap(s.t + row_rng(5, 4).uniform("jitter").double() / 10)
    assert bool((later > s.t).all()) and float((later - s.t).max()) <= 0.1
    z = run_ddim(prior, s.x0, s.conditions, ddim_times(SD, later, 0, 10), -6.5)
    eps_hat = guided_prediction(prior, z, s.t, s.conditions, 8.5).eps
    kappa = implied_noise(SD, s.x0, z, s.t)
    assert max_difference(direction, eps_hat - kappa) < 1e-10


@pytest.mark.parametrize(
    ("t", "strides"), [(0.05, 1), (0.1, 1), (0.11, 2), (0.5, 5), (0.98, 10), (1.0, 10)]
)
def test_sdi_passes(t, strides):
    prior, s = mixture(), five_rows(SD, t)
    for method, calls in ((SDI(), strides + 1), (SDI(kappa="cached"), 1)):
        state = state_of(method, prior, s)
        passes = count_calls(prior, lambda m=method, st=state: m(prior, s, st))[1]
        assert passes == (calls, 10 * calls)


@pytest.mark.parametrize(
    "method",
    [SDI(refresh_every=4), SDI(kappa="cached", refresh_every=2), SDI(renoise_jitter=True), DSD()],
    ids=["inverted", "cached", "jitter", "dsd"],
)
def test_resumed_run_equals_uninterrupted_one(method):
    prior = mixture()
    experiment = Experiment(("x",), method=method, particles=3, batch_size=2, steps=6, seed=3)
    whole, first, second = (Run(experiment, prior) for _ in range(3))
    while whole.step < 6:
        whole.advance()
    while first.step < 3:
        first.advance()
    second.load({k: v.clone() for k, v in first.tensors().items()}, 3)
    while second.step < 6:
        second.advance()
    expected, resumed = whole.tensors(), second.tensors()
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)


def test_sds_with_inverted_noise_is_sdi():
    """In runs, with the same draws."""
    ends = []
    for options in ({"method": SDI(8.5)}, {"method": SDS(8.5), "noise": InvertedNoise()}):
        run = Run(Experiment(("x",), particles=2, steps=3, **options), mixture())
        while run.step < 3:
            run.advance()
        ends.append(torch.stack(list(run.representation.particles)).detach())
    assert max_difference(*ends) < 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"inversion_steps": 0},
        {"refresh_every": 0},
        {"inversion_eta": -0.1},
        {"inversion_eta": float("nan")},
    ],
)
def test_sdi_rejects_bad_options(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be at least"):
        SDI(**options)


@pytest.mark.parametrize("options", [{"inversion_steps": 0}, {"eta": -0.1}, {"eta": float("nan")}])
def test_inverted_noise_rejects_bad_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        InvertedNoise(**options)


# DSD


def test_dsd_is_its_formula():
    prior, s = mixture(), five_rows(SD, f64([0.35, 0.5, 0.6, 0.8, 0.97]))
    method = DSD()
    state = state_of(method, prior, s)
    shift = torch.minimum(0.1 * (s.t - 0.32), 1 - s.t)
    later = SD.snap(s.t + shift * row_rng(5, 99).uniform("later t").double())
    direction = method(prior, s, state)
    noise = FixedPerParticleNoise()(row_rng(5), (4,)).double()
    assert torch.equal(state.noise, noise)
    for i in range(5):
        x, t, conditions = s.x0[i : i + 1], s.t[i : i + 1], s.conditions[i : i + 1]
        later_t, z = later[i : i + 1], state.noise[i : i + 1]
        times = [SD.snap(f64([1 - k / 10])) for k in range(10)]
        for now, end in pairwise([*(time for time in times if time > later_t), later_t]):
            prediction = guided_prediction(prior, z, now, conditions, 7.5)
            z = SD.add_noise(prediction.x0, prediction.eps, end)
        kappa = guided_prediction(prior, z, later_t, conditions, 7.5).eps
        eps_later = prior(SD.add_noise(x, kappa, later_t), later_t, conditions.pos)[0].eps
        eps_hat = guided_prediction(prior, SD.add_noise(x, kappa, t), t, conditions, 7.5).eps
        assert max_difference(direction[i : i + 1], eps_hat - eps_later) < 1e-10


def test_dsd_without_shift_is_csd_at_the_noise_of_the_ode():
    prior, s = mixture(), five_rows()
    method = DSD(7.5, plus_ratio=0.0)
    state = state_of(method, prior, s)
    direction = method(prior, s, state)
    z = run_ddim(prior, state.noise, s.conditions, ddim_times(SD, s.t, 1, 10), 7.5)
    kappa = guided_prediction(prior, z, s.t, s.conditions, 7.5).eps
    null, pos = prior(SD.add_noise(s.x0, kappa, s.t), s.t, s.conditions.null, s.conditions.pos)
    assert max_difference(direction, 6.5 * (pos.eps - null.eps)) < 1e-11
    same = DSD(7.5, later_guidance=7.5, plus_ratio=0.0)
    assert max_difference(same(prior, s, state_of(same, prior, s)), torch.zeros(5, 4)) < 1e-12


def test_dsd_depends_only_on_the_noise_of_the_particle():
    prior, s = mixture(), five_rows()
    other = replace(s, eps=normal(5, 4, seed=9), rng=row_rng(5, 99))
    method = DSD()
    state = state_of(method, prior, s)
    assert torch.equal(method(prior, s, state), method(prior, other, state))
    assert state.tensors() == {}


@pytest.mark.parametrize(("t", "strides"), [(0.32, 7), (0.5, 5), (0.95, 1), (1.0, 0)])
def test_dsd_passes(t, strides):
    prior, s = mixture(), five_rows(SD, t)
    method = DSD(plus_ratio=0.0)
    state = state_of(method, prior, s)
    passes = count_calls(prior, lambda: method(prior, s, state))[1]
    assert passes == (strides + 3, 5 * (2 * strides + 5))


@pytest.mark.parametrize(
    "options",
    [{"ddim_steps": 0}, {"plus_ratio": -0.1}, {"t_min": 1.1}, {"plus_ratio": float("nan")}],
)
def test_dsd_rejects_bad_options(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        DSD(**options)


# All methods


@pytest.mark.parametrize(
    "method",
    [SDI(inversion_eta=0.0), SDI(kappa="cached"), DSD(plus_ratio=0.0), ISM()],
    ids=["sdi", "cached", "dsd", "ism"],
)
def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch(method):
    prior, s = mixture(), five_rows(SD, f64([0.05, 0.3, 0.5, 0.75, 0.95]))
    whole = method(prior, s, state_of(method, prior, s))
    for i in range(5):
        one, state = s.select(torch.tensor([i])), state_of(method, prior, s)
        assert max_difference(method(prior, one, state), whole[i : i + 1]) < 1e-12


def test_run_ddim_keeps_perp_neg_and_ignores_denoise_steps():
    """Each of its steps is a guided prediction of a single denoising step."""
    prior, s = mixture(), five_rows()
    negative = Condition(class_conditions(5, (0.7, 0.2, 0.1), (1.0, 1.0, 1.0)).null.data)
    perp_neg = ((negative, torch.full((5,), 0.5)),)
    conditions = Conditions(s.conditions.pos, s.conditions.null, perp_neg, 4)
    times = [torch.full((5,), 0.1, dtype=torch.float64), s.t]
    prediction = guided_prediction(prior, s.x0, times[0], replace(conditions, denoise_steps=1), 3.0)
    result = run_ddim(prior, s.x0, conditions, times, 3.0)
    expected = SD.add_noise(prediction.x0, prediction.eps, s.t)
    assert max_difference(result, expected) < 1e-12
