"""SJC, CSD, ASD, Bridge, ESD, ISM, HiFA and CFD on exact priors: identities, passes, options."""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp

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

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.schedule import (
    CosineSchedule,
    NoiseSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import Critic, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import FixedPerParticleNoise
from limbeck.distillation.state import Stateless
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.weights import LambdaWeight, Weight
from limbeck.methods.asd import ASD
from limbeck.methods.bridge import Bridge
from limbeck.methods.csd import CSD
from limbeck.methods.esd import ESD
from limbeck.methods.hifa import HiFA
from limbeck.methods.ism import ISM
from limbeck.methods.sds import SDS
from limbeck.methods.sjc import SJC
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.system.notices import collect_notices
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

TIMES = [0.03, 0.2, 0.5, 0.8, 0.97]
SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
NO_STATE = Stateless()
#: Weights of the components under null and under the prompt.
SHARES = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", TIMES)


def mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)


def five_rows(schedule=SD, t: Tensor | float = 0.5):
    return make_inputs(
        schedule, normal(5, 4, seed=2), t, normal(5, 4, seed=3), class_conditions(5, *SHARES)
    )


def pair(null: Tensor, pos: Tensor, std: float, schedule=SD) -> GaussianMixture:
    """Null is N(null, std^2), the prompt N(pos, std^2)."""
    return GaussianMixture(torch.stack([null, pos]), f64([std, std]), schedule=schedule)


def two_classes(rows: int):
    return class_conditions(rows, (1.0, 0.0), (0.0, 1.0))


# SJC


@every_schedule
@every_time
@pytest.mark.parametrize("var_red", [True, False])
def test_identity_10_sjc_is_the_formula_of_the_paper(schedule, t, var_red):
    prior, s = mixture(schedule), five_rows(schedule, t)
    lam = expand(schedule.sigma(s.t) / schedule.alpha(s.t), s.x0)
    z = s.x0 + lam * s.eps
    # D(z; lambda) is the x0 prediction at x_t = alpha z
    xt = z * expand(schedule.alpha(s.t), z)
    d = guided_prediction(prior, xt, s.t, s.conditions, 7.5).x0
    paper = (s.x0 - d) / lam if var_red else (z - d) / lam
    assert max_difference(SJC(7.5, var_red)(prior, s, NO_STATE), paper) < 1e-11


@every_schedule
@every_time
def test_identity_10_sjc_is_sds_and_differs_by_the_noise_without_var_red(schedule, t):
    prior, s = mixture(schedule), five_rows(schedule, t)
    sds, sjc = SDS(7.5)(prior, s, NO_STATE), SJC(7.5)(prior, s, NO_STATE)
    plain = SJC(7.5, var_red=False)(prior, s, NO_STATE)
    assert torch.equal(sjc, sds)
    assert max_difference(plain - sjc, s.eps) < 1e-13


@pytest.mark.parametrize(("t", "better"), [(0.05, False), (0.9, True)])
def test_sjc_var_red_reduces_variance_only_at_large_t(t, better):
    prior = GaussianMixture(torch.zeros(1, 1).double(), f64([1.0]))
    conditions = class_conditions(400, (1.0,), (1.0,))
    s = make_inputs(SD, torch.zeros(400, 1).double(), t, normal(400, 1), conditions)
    reduced, plain = (SJC(1.0, v)(prior, s, NO_STATE).var() for v in (True, False))
    assert bool(reduced < plain) == better


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 10), (1.0, 5), (0.0, 5)])
def test_sjc_passes(guidance, rows):
    prior, s = mixture(), five_rows()
    assert count_calls(prior, lambda: SJC(guidance)(prior, s, NO_STATE))[1] == (1, rows)


# CSD


@every_time
def test_identity_05_csd_is_the_limit_of_sds_over_s(t):
    prior, s = mixture(), five_rows(SD, t)
    csd = CSD()(prior, s, NO_STATE)
    assert max_difference(SDS(1e12)(prior, s, NO_STATE) / 1e12, csd) < 1e-11
    # exactly: SDS(s) = SDS(0) + s CSD
    result = SDS(7.5)(prior, s, NO_STATE) - SDS(0.0)(prior, s, NO_STATE)
    assert max_difference(result, 7.5 * csd) < 1e-12


@every_schedule
@every_time
def test_identity_05_with_equal_variances_csd_is_a_constant(schedule, t):
    null, pos = normal(4, seed=4), normal(4, seed=5)
    s = make_inputs(schedule, 9 * normal(6, 4, seed=2), t, normal(6, 4, seed=3), two_classes(6))
    alpha, sigma = expand(schedule.alpha(s.t), s.x0), expand(schedule.sigma(s.t), s.x0)
    expected = -sigma * alpha / (alpha**2 * 0.49 + sigma**2) * (pos - null)
    result = CSD()(pair(null, pos, 0.7, schedule), s, NO_STATE)
    assert max_difference(result, expected.expand(6, 4)) < 1e-12


def test_csd_is_zero_if_the_prompt_equals_null():
    prior, s = mixture(), five_rows()
    s = replace(s, conditions=class_conditions(5, SHARES[0], SHARES[0]))
    assert max_difference(CSD()(prior, s, NO_STATE), torch.zeros(5, 4)) == 0


def test_csd_passes():
    prior, s = mixture(), five_rows()
    assert count_calls(prior, lambda: CSD()(prior, s, NO_STATE))[1] == (1, 10)


# ASD


@every_schedule
@every_time
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_identity_14_asd_without_shift_is_s_minus_one_times_csd(schedule, t, scale):
    prior, s = mixture(schedule), five_rows(schedule, t)
    result = ASD(scale, eta=0.0)(prior, s, NO_STATE)
    expected = (scale - 1) * CSD()(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-12


@every_schedule
def test_asd_predicts_at_a_later_time_with_the_same_noise_without_guidance(schedule):
    prior, s = mixture(schedule), five_rows(schedule, f64([0.01, 0.02, 0.3, 0.7, 0.8]))
    got = ASD(7.5, eta=0.4)(prior, s, NO_STATE)
    shift = 0.4 * (s.t - 0.02).clamp_min(0)
    fraction = row_rng(5, 99).uniform("later t").double()
    later = schedule.snap(s.t + torch.minimum(shift, 1 - s.t) * fraction)
    assert bool((later[:2] == s.t[:2]).all()) and bool((later[2:] > s.t[2:]).all())
    assert float(later.max()) <= 1
    phi = prior(schedule.add_noise(s.x0, s.eps, later), later, s.conditions.pos)[0].eps
    expected = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).eps - phi
    assert max_difference(got, expected) < 1e-13


@every_time
def test_asd_of_a_gaussian_in_closed_form(t):
    """The predictions at t and at the later time are both known."""
    mean, c, schedule = f64([0.4, -0.2]), 0.49, CosineSchedule()
    prior = GaussianMixture(mean[None], f64([0.7]), schedule=schedule)
    conditions = class_conditions(6, (1.0,), (1.0,))
    s = make_inputs(schedule, normal(6, 2, seed=2), t, normal(6, 2, seed=3), conditions)

    def eps_hat(time):
        a, b = expand(schedule.alpha(time), s.x0), expand(schedule.sigma(time), s.x0)
        return b / (a**2 * c + b**2) * (a * (s.x0 - mean) + b * s.eps)

    bound = torch.minimum(0.1 * (s.t - 0.02), 1 - s.t)
    later = s.t + bound * row_rng(6, 99).uniform("later t").double()
    assert max_difference(ASD(1.0)(prior, s, NO_STATE), eps_hat(s.t) - eps_hat(later)) < 1e-12


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 15), (1.0, 10)])
def test_asd_passes(guidance, rows):
    prior, s = mixture(), five_rows()
    assert count_calls(prior, lambda: ASD(guidance)(prior, s, NO_STATE))[1] == (2, rows)


@pytest.mark.parametrize(
    "options", [{"eta": -0.1}, {"eta": float("nan")}, {"t_min": -0.1}, {"t_min": 1.1}]
)
def test_asd_rejects_bad_options(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        ASD(**options)


# Bridge

LABELS = ("red mug", "blue mug", "red chair")


def labeled_mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(
        normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=LABELS, schedule=schedule
    )


def last_step_inputs(prior, texts, t=0.5, rows=6):
    """Inputs of the last step of a run of these prompts, and the setup of its method."""
    texts_by_row = [texts[i // (rows // len(texts))] for i in range(rows)]
    conditions = Conditions(prior.condition(texts_by_row), prior.condition([""] * rows))
    s = make_inputs(prior.schedule, normal(rows, 4, seed=2), t, normal(rows, 4, seed=3), conditions)
    return replace(s, step=9, steps=10), SetupContext(rows, len(texts), 0, s.x0, tuple(texts))


@every_time
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_identity_14_bridge_is_antisymmetric_in_source_and_target(schedule, t):
    prior = labeled_mixture(schedule)
    s, start = last_step_inputs(prior, ("mug", "chair"), t)

    def direction(source, target):
        method = Bridge(40.0, source_suffix=source, target_suffix=target)
        return method(prior, s, method.init(prior, start))

    forward, backward = direction(" blue", " red mug"), direction(" red mug", " blue")
    assert float(forward.abs().amax()) > 0.1
    assert max_difference(forward, -backward) == 0
    assert max_difference(direction(" blue", " blue"), torch.zeros_like(forward)) == 0


@every_time
def test_identity_14_bridge_from_the_null_prompt_is_s_times_csd(t):
    prior = labeled_mixture()
    s, _ = last_step_inputs(prior, ("red mug",), t)
    method = Bridge(40.0, source_suffix="", target_suffix="red mug")
    got = method(prior, s, method.init(prior, SetupContext(6, 1, 0, s.x0, ("",))))
    assert max_difference(got, 40 * CSD()(prior, s, NO_STATE)) < 1e-12


@pytest.mark.parametrize("step", range(10))
def test_bridge_is_sds_in_stage_one(step):
    prior = labeled_mixture()
    s, start = last_step_inputs(prior, ("mug",))
    s = replace(s, step=step)
    method = Bridge(7.5, stage_two_start=0.3, source_suffix=" blue", target_suffix=" red")
    direction = method(prior, s, method.init(prior, start))
    assert torch.equal(direction, SDS(7.5)(prior, s, NO_STATE)) == (step < 3)


def test_bridge_extends_the_prompt_of_each_particle():
    prior = labeled_mixture()
    s, start = last_step_inputs(prior, ("red", "blue"))
    method = Bridge(2.0, stage_two_start=0.0, source_suffix=" mug", target_suffix=" chair")
    state = method.init(prior, start)
    whole = method(prior, s, state)
    for i in range(6):
        text = ("red", "blue")[i // 3]
        conditions = [prior.condition([text + end]) for end in (" mug", " chair")]
        source, target = prior(s.xt[i : i + 1], s.t[i : i + 1], *conditions)
        assert max_difference(whole[i : i + 1], 2 * (target.eps - source.eps)) < 1e-14
    batch = torch.tensor([1, 4])
    assert max_difference(method(prior, s.select(batch), state), whole[batch]) < 1e-13


@pytest.mark.parametrize("suffix", [None, " mug"])
def test_bridge_with_source_prompts_goes_from_them_to_the_prompts(suffix):
    prior = labeled_mixture()
    texts = ("red", "blue") if suffix else ("red mug", "blue mug")
    s, start = last_step_inputs(prior, texts)
    method = Bridge(2.0, stage_two_start=0.0, target_suffix=suffix)
    state = method.init(prior, replace(start, source_prompts=("red chair", "red mug")))
    direction = method(prior, s, state)
    for i in range(6):
        pair = (("red chair", "red mug"), ("red mug", "blue mug"))[i // 3]
        conditions = [prior.condition([text]) for text in pair]
        source, target = prior(s.xt[i : i + 1], s.t[i : i + 1], *conditions)
        assert max_difference(direction[i : i + 1], 2 * (target.eps - source.eps)) < 1e-14


@pytest.mark.parametrize("step", [0, 9])
def test_bridge_passes(step):
    prior = labeled_mixture()
    s, start = last_step_inputs(prior, ("mug",))
    method = Bridge(source_suffix=" blue", target_suffix=" red")
    state = method.init(prior, start)
    assert count_calls(prior, lambda: method(prior, replace(s, step=step), state))[1] == (1, 12)
    assert state.tensors() == {}


def test_run_passes_its_prompts_to_bridge():
    prior = labeled_mixture()
    method = Bridge(source_suffix=" mug", target_suffix=" chair")
    run = Run(Experiment(("red", "blue"), method=method, particles=2, steps=4), prior)
    inputs, _ = last_step_inputs(prior, ("red", "blue"), rows=4)
    source, target = run.state.for_rows(inputs)
    for embedding, noun in ((source, "mug"), (target, "chair")):
        texts = [f"red {noun}", f"red {noun}", f"blue {noun}", f"blue {noun}"]
        assert torch.equal(embedding.data, prior.condition(texts).data)
    while run.step < 4:
        run.advance()
    assert (prior.call_counter.calls, prior.call_counter.rows) == (4, 4 * 2 * 4)


def test_bridge_without_readable_suffixes_goes_from_the_empty_prompt_to_the_prompt(v_folder):
    mixture, network = labeled_mixture(), StableDiffusion(str(v_folder))
    for prior, prompt in ((mixture, "mug"), (network, "a red mug"), (network, "a red mug " * 9)):
        setup = SetupContext(6, 1, 0, torch.zeros(6, 4), (prompt,))
        rows, _ = last_step_inputs(prior, (prompt,))
        with collect_notices() as notices:
            y = Bridge().init(prior, setup).transition(rows)
        assert torch.equal(y.null.data, prior.condition([""] * 6).data)
        assert torch.equal(y.pos.data, prior.condition([prompt] * 6).data)
        assert [text for text in notices if text.startswith("this model cannot read")]


def test_bridge_uses_the_papers_suffixes_where_the_model_tells_them_apart():
    labels = ("red mug", "blurry mug", "sharp mug")
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=labels)
    setup = SetupContext(6, 1, 0, torch.zeros(6, 4), ("mug",))
    rows, _ = last_step_inputs(prior, ("mug",))
    with collect_notices() as notices:
        source, target = Bridge().init(prior, setup).for_rows(rows)
    assert torch.equal(source.data, prior.condition(["blurry mug"] * 6).data)
    assert torch.equal(target.data, prior.condition(["sharp mug"] * 6).data)
    assert notices == []


def test_bridge_keeps_its_words_where_it_cuts_a_long_prompt(v_folder):
    prior, prompt = StableDiffusion(str(v_folder)), "two striped cats, a blue chair, on grey, " * 3
    setup = SetupContext(6, 1, 0, torch.zeros(6, 4), (prompt,))
    method = Bridge(source_suffix=", low", target_suffix=", red")
    rows, _ = last_step_inputs(prior, (prompt,))
    source, target = method.init(prior, setup).for_rows(rows)
    kept = "two striped cats, a blue chair"  # with "on" it would be 13 tokens, one too many
    assert torch.equal(source.data[:1], prior.condition([kept + ", low"]).data)
    assert torch.equal(target.data[:1], prior.condition([kept + ", red"]).data)


def test_bridge_refuses_suffixes_that_the_model_does_not_tell_apart(v_folder):
    prior = labeled_mixture()
    setup = SetupContext(6, 1, 0, torch.zeros(6, 4), ("red mug",))
    message = "'red mug, sharp' and 'red mug, blurry' are the same to this model"
    with pytest.raises(ValueError, match=message):
        Bridge(source_suffix=", sharp", target_suffix=", blurry").init(prior, setup)
    prior = StableDiffusion(str(v_folder))
    with pytest.raises(ValueError, match="are the same to this model; change the method's own"):
        Bridge(source_suffix=", low", target_suffix=", LOW").init(prior, setup)


@pytest.mark.parametrize("start", [-0.1, 1.1, float("nan")])
def test_bridge_rejects_bad_options(start):
    with pytest.raises(ValueError, match="stage_two_start must be a fraction of the run"):
        Bridge(stage_two_start=start)


def test_bridge_needs_the_prompts():
    with pytest.raises(ValueError, match="needs the texts of all 2, but the setup has 0"):
        Bridge().init(labeled_mixture(), SetupContext(4, 2, 0, torch.zeros(4, 4)))


# ESD


class PopulationCritic(Critic):
    """Predicts the added noise under the prompt, and the Gaussian of all particles under null."""

    def observe(self, inputs):
        x, schedule = inputs.x0.detach(), inputs.schedule
        mean, std = x.mean(0)[None], x.var(correction=0).sqrt()[None]
        self.q = GaussianMixture(mean, std, schedule=schedule)

    def predict_both(self, prior, inputs, prior_conditions, critic_conditions):
        null = inputs.conditions.null
        population = self.q(inputs.xt, inputs.t, self.q.condition([""] * len(inputs.x0)))[0]
        known = Prediction(inputs.x0, inputs.eps)
        predictions = [population if c is null else known for c in critic_conditions]
        return prior(inputs.xt, inputs.t, *prior_conditions), predictions

    def prior(self):
        return self.q

    def fit(self, inputs):
        return {}

    def tensors(self):
        return {}

    def load(self, tensors):
        pass

    def save(self, folder):
        pass


#: Means of two Gaussians of variance .49.
NULL, POS = f64([-0.4]), f64([0.8])


def particle_velocity(method, x: Tensor, t: float) -> Tensor:
    """Minus the mean direction over antithetic pairs of noise, exact for linear denoisers."""
    eps = normal(len(x), 1, seed=5)
    s = make_inputs(SD, torch.cat([x, x]), t, torch.cat([eps, -eps]), two_classes(2 * len(x)))
    return -method(pair(NULL, POS, 0.7), s, PopulationCritic()).unflatten(0, (2, -1)).mean(0)


def integrate_particles(method, x: Tensor, t: float, span: float, n: int) -> Tensor:
    """The particles after the time ``span``, by Runge-Kutta of fourth order."""
    h = span / n
    for _ in range(n):
        a = particle_velocity(method, x, t)
        b = particle_velocity(method, x + h / 2 * a, t)
        c = particle_velocity(method, x + h / 2 * b, t)
        x = x + h / 6 * (a + 2 * b + 2 * c + particle_velocity(method, x + h * c, t))
    return x


@every_time
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9, 1.0])
def test_identity_09_rate_of_the_particle_variance(lam, t):
    x = 1.5 * normal(300, 1)
    alpha, sigma = (float(f(SD.snap(f64([t])))) for f in (SD.alpha, SD.sigma))
    var = float(x.var(correction=0))
    pull = 1 / (alpha**2 * 0.49 + sigma**2) - lam / (alpha**2 * var + sigma**2)
    got = 2 * ((x - x.mean()) * particle_velocity(ESD(4.0, lam), x, t)).mean()
    assert abs(float(got) + 2 * sigma * alpha * var * pull) < 1e-12


@pytest.mark.parametrize(("lam", "t"), [(1.0, 0.3), (0.9, 0.1), (0.5, 0.1), (0.7, 0.2)])
def test_identity_09_stationary_variance_of_esd(lam, t):
    alpha, sigma = (float(f(f64([t]))) for f in (SD.alpha, SD.sigma))
    stationary = lam * 0.49 - (1 - lam) * sigma**2 / alpha**2
    assert stationary > 0.05
    end = integrate_particles(ESD(4.0, lam), 0.3 * normal(40, 1), t, 150.0, 200)
    assert abs(float(end.var(correction=0)) - stationary) < 1e-9
    # the critic has the mean of the particles, so that their mean goes to that of the guided prior
    assert abs(float(end.mean()) - float(NULL + 4 * (POS - NULL))) < 1e-9


def test_identity_09_esd_collapses_below_the_threshold():
    lam, t = 0.3, 0.5
    alpha, sigma = (float(f(f64([t]))) for f in (SD.alpha, SD.sigma))
    threshold = sigma**2 / (alpha**2 * 0.49 + sigma**2)
    assert lam < threshold
    x = normal(40, 1)
    end = integrate_particles(ESD(4.0, lam), x, t, 60.0, 200)
    # the variance falls at least as fast as in the equation linearized at zero
    rate = 2 * sigma * alpha * (1 / (alpha**2 * 0.49 + sigma**2) - lam / sigma**2)
    assert 0 <= float(end.var(correction=0)) < 1.01 * float(x.var(correction=0)) * exp(-rate * 60)


@every_time
def test_esd_is_vsd_at_entropy_weight_zero_and_with_the_exact_critic(t):
    prior, s = mixture(), five_rows(SD, t)
    start = SetupContext(5, 1, 0, s.x0)

    def direction(method):
        return method(prior, s, method.init(prior, start))

    vsd = direction(VSD(7.5, critic=ExactCritic()))
    for lam in (0.0, 0.5, 1.0):
        assert max_difference(direction(ESD(7.5, lam, ExactCritic())), vsd) < 1e-13
    assert torch.equal(
        ESD(7.5, 0.0)(prior, s, PopulationCritic()), VSD(7.5, 1.0)(prior, s, PopulationCritic())
    )
    assert torch.equal(
        ESD(7.5, 0.25)(prior, s, PopulationCritic()), VSD(7.5, 0.75)(prior, s, PopulationCritic())
    )


def test_esd_trains_the_null_rows_of_its_default_critic():
    assert isinstance(ESD().critic, AutoCritic) and ESD().critic.training.unconditional_prob > 0


@pytest.mark.parametrize(("lam", "rows"), [(0.5, 4), (0.0, 3), (1.0, 3)])
def test_esd_passes_on_a_network(prior, lam, rows):
    method = ESD(7.5, lam, LoRACritic(4, CriticTraining(unconditional_prob=0.1)))
    run = Run(Experiment(("a red mug",), method=method, particles=2, steps=1), prior)
    # one call for the prior and the critic, one for the critic's training step
    assert count_calls(prior, run.advance)[1] == (2, 2 * rows + 2)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_esd_rejects_bad_options(weight):
    with pytest.raises(ValueError, match=r"entropy_weight must be in \[0, 1\]"):
        ESD(entropy_weight=weight)


# ISM

NO_ANNEALING = {"delta_t_start": 0.08}


def invert_row(prior, s, row: int, end: float, stride: float):
    """x at the time ``end`` of one row, stride by stride from its clean x at time 0."""
    x, now, null = s.x0[row : row + 1], 0.0, s.conditions.null[row : row + 1]
    while now < end:
        later = min(float(prior.schedule.snap(f64([now + stride]))), end)
        prediction = prior(x, f64([now]), null)[0]
        x, now = prior.schedule.add_noise(prediction.x0, prediction.eps, f64([later])), later
    return x


@every_schedule
def test_identity_18_ism_is_the_difference_of_two_x0_predictions(schedule):
    prior, s = mixture(schedule), five_rows(schedule, f64([0.05, 0.3, 0.5, 0.75, 0.98]))
    lambda_t = expand(schedule.sigma(s.t) / schedule.alpha(s.t), s.x0)
    weighted = lambda_t * ISM(7.5, **NO_ANNEALING)(prior, s, NO_STATE)
    for i in range(5):
        t, conditions = s.t[i : i + 1], s.conditions[i : i + 1]
        earlier_t = schedule.snap((t - 0.08).clamp_min(0))
        xs = invert_row(prior, s, i, float(earlier_t), 0.2)
        at_s = prior(xs, earlier_t, conditions.null)[0]
        xt = schedule.add_noise(at_s.x0, at_s.eps, t)
        at_t = guided_prediction(prior, xt, t, conditions, 7.5)
        assert max_difference(weighted[i : i + 1], at_s.x0 - at_t.x0) < 1e-11


@every_time
def test_identity_18_ism_vanishes_linearly_in_the_interval(t):
    prior, s = mixture(CosineSchedule()), five_rows(CosineSchedule(), t)
    s = replace(s, conditions=class_conditions(5, SHARES[0], SHARES[0]))

    def direction(delta):
        return ISM(1.0, delta_t=delta, delta_t_start=delta)(prior, s, NO_STATE)

    assert max_difference(direction(0.0), torch.zeros(5, 4)) < 1e-14
    coarse, fine = (direction(delta) / delta for delta in (2e-5, 1e-5))
    size = float(fine.abs().amax())
    assert size > 1e-3
    assert max_difference(coarse, fine) < 1e-3 * size


@every_schedule
@every_time
def test_identity_18_ism_of_interval_t_predicts_at_the_clean_image(schedule, t):
    prior, s = mixture(schedule), five_rows(schedule, t)
    at_zero = prior(s.x0, torch.zeros_like(s.t), s.conditions.null)[0]
    xt = schedule.add_noise(at_zero.x0, at_zero.eps, s.t)
    at_t = guided_prediction(prior, xt, s.t, s.conditions, 7.5)
    method = ISM(7.5, delta_t=1.0, delta_t_start=1.0)
    direction, passes = count_calls(prior, lambda: method(prior, s, NO_STATE))
    assert max_difference(direction, at_t.eps - at_zero.eps) < 1e-13
    assert passes == (2, 15)


def test_ism_uses_the_drawn_noise_only_if_it_starts_from_noise():
    prior, s = mixture(), five_rows()
    other = replace(s, eps=normal(5, 4, seed=9))

    def ignores_eps(method):
        return torch.equal(method(prior, s, NO_STATE), method(prior, other, NO_STATE))

    assert ignores_eps(ISM())
    assert not ignores_eps(ISM(noisy_start=True))
    assert not ignores_eps(ISM(inversion_steps=1))


def test_ism_inversion_starts_from_noise_if_its_strides_do_not_reach_zero():
    prior, s = mixture(), five_rows()
    now, end = f64([0.3] * 5), f64([0.4] * 5)  # one stride of .1 up to s = .4
    prediction = prior(SD.add_noise(s.x0, s.eps, now), now, s.conditions.null)[0]
    method = ISM(7.5, delta_t=0.1, delta_s=0.1, inversion_steps=1)
    result = method.invert(prior, s, end)
    expected = SD.add_noise(prediction.x0, prediction.eps, end)
    assert max_difference(result, expected) < 1e-13
    without_steps = ISM(7.5, delta_t=0.1, inversion_steps=0)
    assert torch.equal(without_steps.invert(prior, s, end), SD.add_noise(s.x0, s.eps, end))
    zero = torch.zeros_like(end)
    noisy = ISM(noisy_start=True).invert(prior, s, zero)
    assert torch.equal(noisy, SD.add_noise(s.x0, s.eps, zero))
    assert torch.equal(ISM().invert(prior, s, zero), s.x0)


def test_ism_inversion_ends_at_s_despite_rounded_strides():
    prior, s = mixture(), five_rows()
    # strides of 33.4 ticks are rounded to 33, so that the third would end at .099
    x, times = s.x0, (0.0, 0.033, 0.066, 0.1)
    for now, later in pairwise(f64([t] * 5) for t in times):
        prediction = prior(x, now, s.conditions.null)[0]
        x = SD.add_noise(prediction.x0, prediction.eps, later)
    result = ISM(delta_s=0.0334, inversion_steps=3).invert(prior, s, f64([0.1] * 5))
    assert max_difference(result, x) < 1e-13


@pytest.mark.parametrize(("step", "delta"), [(0, 0.1), (15, 0.09), (30, 0.08), (99, 0.08)])
def test_ism_anneals_its_interval(step, delta):
    assert abs(ISM().interval(step, 100) - delta) < 1e-15
    assert ISM(warmup=0.0).interval(step, 100) == 0.08


@pytest.mark.parametrize(
    ("t", "strides"),
    [(0.05, 0), (0.08, 0), (0.09, 1), (0.3, 2), (0.48, 2), (0.5, 3), (0.75, 4), (0.98, 5)],
)
def test_ism_passes_of_one_row(t, strides):
    prior, s = mixture(), five_rows(SD, t)
    one, method = s.select(torch.tensor([0])), ISM(7.5, **NO_ANNEALING)
    passes = count_calls(prior, lambda: method(prior, one, NO_STATE))[1]
    assert passes == (strides + 2, strides + 3)


def test_ism_inversion_skips_rows_that_reached_s():
    prior, s = mixture(), five_rows(SD, f64([0.05, 0.3, 0.5, 0.75, 0.98]))
    method = ISM(7.5, **NO_ANNEALING)
    whole, passes = count_calls(prior, lambda: method(prior, s, NO_STATE))
    assert passes == (5 + 2, 0 + 2 + 3 + 4 + 5 + 5 + 10)
    for i in range(5):
        rows = torch.tensor([i])
        assert max_difference(method(prior, s.select(rows), NO_STATE), whole[rows]) < 1e-13


def test_ism_runs_in_float32():
    prior = mixture()
    run = Run(Experiment(("x",), method=ISM(1.0), particles=3, steps=5), prior)
    while run.step < 5:
        assert bool(run.advance().gradient.isfinite().all())


@pytest.mark.parametrize(
    "options",
    [
        {"delta_t": -0.1},
        {"delta_t": 1.1},
        {"delta_t_start": -0.1},
        {"warmup": -0.1},
        {"warmup": 1.1},
        {"delta_s": 0.0},
        {"delta_s": 1.1},
        {"inversion_steps": -1},
        {"delta_t": float("nan")},
        {"delta_s": float("nan")},
    ],
)
def test_ism_rejects_bad_options(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        ISM(**options)


# HiFA


@dataclass(frozen=True)
class RescaledSchedule(NoiseSchedule):
    """A schedule that ends at the time ``last`` of another."""

    whole: NoiseSchedule
    last: float

    def alpha(self, t):
        return self.whole.alpha(t * self.last)

    def sigma(self, t):
        return self.whole.sigma(t * self.last)

    def inverse_log_snr(self, log_snr):
        return self.whole.inverse_log_snr(log_snr) / self.last


class RescaledPrior:
    """A prior at the times of the rescaled schedule."""

    def __init__(self, prior, schedule):
        self.prior, self.schedule = prior, schedule

    def __call__(self, xt, t, *conditions):
        return self.prior(xt, t * self.schedule.last, *conditions)


@every_schedule
@every_time
def test_identity_12_hifa_of_one_step_is_sds(schedule, t):
    prior, s = mixture(schedule), five_rows(schedule, t)
    hifa = HiFA(7.5, denoise_steps=1, lambda_rgb=0.0)(prior, s, NO_STATE)
    assert max_difference(hifa, SDS(7.5)(prior, s, NO_STATE)) < 1e-11
    gap = s.x0 - guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).x0
    assert max_difference(expand(LambdaWeight()(schedule, s.t), s.x0) * hifa, gap) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("k", [1, 2, 4, 10])
def test_hifa_at_the_last_time_holds_the_image_of_the_sampler(schedule, k):
    """The sampler starts just before t = 1, where the direction is multiplied by alpha = 0."""
    prior, t = mixture(schedule), 0.9999
    s = five_rows(schedule, t)
    rescaled = RescaledSchedule(schedule, t)
    image = sample_x0(RescaledPrior(prior, rescaled), s.conditions, s.xt, k, 3.0)
    lambda_t = expand(schedule.sigma(s.t) / schedule.alpha(s.t), s.x0)
    target = s.x0 - lambda_t * HiFA(3.0, k, lambda_rgb=0.0)(prior, s, NO_STATE)
    assert max_difference(target, image) < 1e-11


@every_schedule
@every_time
@pytest.mark.parametrize("k", [2, 4])
def test_hifa_of_a_gaussian_in_closed_form(schedule, t, k):
    """Each DDIM step scales the distance to the mean of a Gaussian prior."""
    mean, std = f64([0.4, -0.3]), 0.6
    prior = GaussianMixture(mean[None], f64([std]), schedule=schedule)
    conditions = class_conditions(6, (1.0,), (1.0,))
    s = make_inputs(schedule, normal(6, 2, seed=2), t, normal(6, 2, seed=3), conditions)
    times = [schedule.snap(s.t[:1] * left / k) for left in range(k, 0, -1)]
    levels = [(float(schedule.alpha(time)), float(schedule.sigma(time))) for time in times]
    distance = s.xt - levels[0][0] * mean
    for (alpha, sigma), (next_alpha, next_sigma) in pairwise([*levels, (1.0, 0.0)]):
        factor = next_alpha * alpha * std**2 + next_sigma * sigma
        distance = distance * factor / (alpha**2 * std**2 + sigma**2)
    expected = levels[0][0] / levels[0][1] * (s.x0 - mean - distance)
    result = HiFA(1.0, k, lambda_rgb=0.0)(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-11


@pytest.mark.parametrize(("guidance", "k", "rows"), [(7.5, 1, 10), (7.5, 4, 40), (1.0, 4, 20)])
def test_hifa_passes(guidance, k, rows):
    prior, s = mixture(), five_rows()
    method = HiFA(guidance, k, lambda_rgb=0.0)
    assert count_calls(prior, lambda: method(prior, s, NO_STATE))[1] == (k, rows)


@pytest.mark.parametrize("k", [0, -1])
def test_hifa_rejects_bad_options(k):
    with pytest.raises(ValueError, match=f"denoise_steps must be at least 1, not {k}"):
        HiFA(denoise_steps=k)


# CFD and FSD


def lam(schedule, t: Tensor) -> Tensor:
    return schedule.sigma(t) / schedule.alpha(t)


def finite_lambda_times(schedule) -> Tensor:
    """Times of a sampler that starts with some signal left, so that lambda is finite."""
    times = schedule.sampling_times(21)[1:]
    assert bool((schedule.alpha(times) > 0).all())
    return times


@every_schedule
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_identity_20_sds_with_fixed_noise_is_ddim_from_that_noise(schedule, scale):
    prior, noise, conditions = mixture(schedule), normal(5, 4, seed=3), class_conditions(5, *SHARES)
    times = finite_lambda_times(schedule)
    x, z = torch.zeros_like(noise), noise * schedule.sigma(times[:1])
    for i, t in enumerate(times.unsqueeze(1)):
        now = t.expand(5)
        prediction = guided_prediction(prior, z, now, conditions, scale)
        assert max_difference(x, z / schedule.alpha(t) - lam(schedule, t) * noise) < 1e-11
        z, step = prediction.x0, lam(schedule, t)  # a DDIM step of z
        if i + 1 < len(times):
            later = times[i + 1 : i + 2]
            z = schedule.add_noise(prediction.x0, prediction.eps, later.expand(5))
            step = step - lam(schedule, later)
        x = x - step * SDS(scale)(prior, make_inputs(schedule, x, now, noise, conditions), NO_STATE)
    assert max_difference(x, z) < 1e-11


def test_identity_20_sds_with_fixed_noise_from_zero_is_the_sampler():
    prior, noise, conditions = mixture(), normal(5, 4, seed=3), class_conditions(5, *SHARES)
    times = SD.sampling_times(25)  # Stable Diffusion's last tick keeps some signal
    x, lambdas = torch.zeros_like(noise), [*lam(SD, times).tolist(), 0.0]
    for t, (lambda_t, next_lambda) in zip(times, pairwise(lambdas), strict=True):
        s = make_inputs(SD, x, t.expand(5), noise, conditions)
        x = x - (lambda_t - next_lambda) * SDS(7.5)(prior, s, NO_STATE)
    expected = sample_x0(prior, conditions, noise * SD.sigma(times[:1]), 25, 7.5)
    assert max_difference(x, expected) < 1e-11


@dataclass(frozen=True)
class SamplerTimesteps(Timesteps):
    """The sampler's times."""

    def __call__(self, step, steps, rows, schedule, rng):
        return SD.sampling_times(steps)[step].expand(rows)


@dataclass(frozen=True)
class SamplerStepWeight(Weight):
    """lambda_i - lambda_{i+1}, the step of the sampler."""

    steps: int = 1

    def __call__(self, schedule, t):
        times = schedule.sampling_times(self.steps)
        ends = torch.cat([lam(schedule, times), torch.zeros(1).double()])
        i = (times[None] - t.double()[:, None]).abs().argmin(1)
        return ends[i] - ends[i + 1]


def test_identity_20_a_run_is_the_sampler():
    """In float32, with the noise, weight and SGD of a run."""
    prior, n = mixture(), 25
    experiment = Experiment(
        ("x", "x"),
        method=SDS(1.0),
        representation=Latents(1.0),
        optimizer=SGD(),
        noise=FixedPerParticleNoise(),
        timesteps=SamplerTimesteps(),
        weight=SamplerStepWeight(n),
        particles=2,
        steps=n,
    )
    run = Run(experiment, prior)
    with torch.no_grad():
        for p in run.representation.particles:
            p.zero_()
    noises = []
    while run.step < n:
        noises.append(run.advance().inputs.eps)
    assert all(torch.equal(noise, noises[0]) for noise in noises)
    end = torch.stack(list(run.representation.particles)).detach()
    conditions = Conditions(prior.condition(["x"] * 4), prior.condition([""] * 4))
    start = noises[0].double() * SD.sigma(SD.sampling_times(n)[:1])
    assert max_difference(end.reshape(4, -1), sample_x0(prior, conditions, start, n, 1.0)) < 1e-6


@every_time
def test_lambda_weight_turns_sds_into_the_x0_residual(t):
    prior, s = mixture(), five_rows(SD, t)
    gap = s.x0 - guided_prediction(prior, s.xt, s.t, s.conditions, 8.0).x0
    result = expand(LambdaWeight()(SD, s.t), s.x0) * SDS(8.0)(prior, s, NO_STATE)
    assert max_difference(result, gap) < 1e-12


# Identities of all methods

METHODS = [
    SJC(7.5),
    SJC(7.5, var_red=False),
    CSD(),
    ASD(7.5, eta=0.0),
    ISM(7.5),
    ISM(7.5, noisy_start=True),
    HiFA(7.5, lambda_rgb=0.0),
    ESD(7.5, critic=ExactCritic()),
]
ids = [f"{type(m).__name__}{i}" for i, m in enumerate(METHODS)]


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch(method):
    prior, s = mixture(), five_rows(SD, f64([0.05, 0.3, 0.5, 0.75, 0.95]))
    state = method.init(prior, SetupContext(5, 5, 0, s.x0))
    whole = method(prior, s, state)
    for i in range(5):
        rows = torch.tensor([i])
        one = s.select(rows)
        assert max_difference(method(prior, one, state), whole[rows]) < 1e-12


@pytest.mark.parametrize("method", [*METHODS, ASD(7.5, eta=0.3)], ids=[*ids, "ASD"])
def test_identity_31_run_depends_on_its_seed_and_not_on_the_global_generator(method):
    experiment = Experiment(("x",), method=method, particles=3, batch_size=2, steps=4, seed=5)

    def gradients(global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        run = Run(experiment, mixture())
        return torch.stack([run.advance().gradient for _ in range(4)])

    first = gradients(1)
    assert bool(first.isfinite().all())
    assert torch.equal(first, gradients(2))


@pytest.mark.parametrize("method", [*METHODS, ASD(7.5, eta=0.3)], ids=[*ids, "ASD"])
@every_time
def test_identity_33_direction_is_equivariant(method, t):
    means, x0, eps = normal(3, 4, seed=1), normal(5, 4, seed=2), normal(5, 4, seed=3)
    rotation, shift = torch.linalg.qr(normal(4, 4, seed=4)).Q, normal(4, seed=5)

    def direction(m, x, e):
        prior = GaussianMixture(m, f64([0.3, 0.6, 1.0]), schedule=CosineSchedule())
        s = make_inputs(CosineSchedule(), x, t, e, class_conditions(5, *SHARES))
        return method(prior, s, method.init(prior, SetupContext(5, 1, 0, x)))

    reference = direction(means, x0, eps)
    rotated = direction(means @ rotation, x0 @ rotation, eps @ rotation)
    assert max_difference(rotated, reference @ rotation) < 1e-11
    assert max_difference(direction(means + shift, x0 + shift, eps), reference) < 1e-11
