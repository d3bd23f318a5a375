"""Discriminators: the loss and its gradient, what is learned, checkpoints, and runs without one."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_pipeline import f64, make_inputs, max_difference, normal, prompt_conditions, row_rng
from torch import Tensor

from limbeck.config.discovery import choices
from limbeck.diffusion.schedule import stable_diffusion_schedule
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.discriminators.base import (
    DiscriminatedCritic,
    DiscriminatorConfig,
    judge,
)
from limbeck.distillation.discriminators.exact import ExactDiscriminator
from limbeck.distillation.discriminators.feature import FeatureDiscriminator
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.methods.dmd2 import DMD2
from limbeck.methods.f_distill import FDistill
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture
from limbeck.representations.generator import Generator
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

SD = stable_diffusion_schedule()
LABELS = ("red disc", "blue ring")
SMALL = FeatureDiscriminator(width=16, lr=1e-2, sampling_steps=4, guidance=1.0)


def mixture() -> GaussianMixture:
    return GaussianMixture(normal(2, 3, seed=1), f64([0.3, 0.6]), labels=LABELS)


def setup_of(prior, x0: Tensor, prompts: int = 1) -> SetupContext:
    return SetupContext(
        particles=len(x0), num_prompts=prompts, seed=3, x0=x0, prompts=LABELS[:prompts]
    )


def inputs_of(prior, x0: Tensor, t: float, seed: int = 5, prompts: tuple[str, ...] = ("",)):
    texts = [prompts[i * len(prompts) // len(x0)] for i in range(len(x0))]
    eps = normal(*x0.shape, seed=seed)
    return make_inputs(prior.schedule, x0, t, eps, prompt_conditions(prior, texts))


# Identity 48


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_identity_48_the_optimal_discriminator_gives_weighted_vsd(t):
    """Identity 48, two prompts of four particles each."""
    prior, x0 = mixture(), normal(8, 3, seed=2)
    setup = setup_of(prior, x0, prompts=2)
    inputs = inputs_of(prior, x0, t, prompts=LABELS)
    exact = ExactDiscriminator().build(prior, setup)
    exact.observe(inputs)
    logit, gradient = judge(exact, inputs)
    critic = ExactCritic().build(prior, setup)
    vsd = VSD(guidance=1.0)(prior, inputs, critic)
    alpha, sigma = SD.alpha(inputs.t), SD.sigma(inputs.t)
    weight = torch.sigmoid(-logit) * alpha / sigma
    assert max_difference(gradient, weight[:, None] * vsd) < 1e-9 * float(gradient.abs().max())


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_exact_logit_is_the_log_ratio_of_densities(t):
    prior, x0 = mixture(), normal(8, 3, seed=2)
    inputs = inputs_of(prior, x0, t, prompts=LABELS)
    exact = ExactDiscriminator().build(prior, setup_of(prior, x0, prompts=2))
    exact.observe(inputs)
    alpha, sigma = (float(f(inputs.t)[0]) for f in (SD.alpha, SD.sigma))
    log_p = prior.log_density(inputs.xt, inputs.t, inputs.conditions.pos)
    own = torch.arange(8)[:, None] // 4 == torch.arange(8) // 4
    squares = (inputs.xt[:, None] - alpha * x0).square().sum(2)
    log_normal = -squares / (2 * sigma**2) - 1.5 * math.log(2 * math.pi * sigma**2)
    log_q = log_normal.masked_fill(~own, -torch.inf).logsumexp(1) - math.log(4)
    assert max_difference(exact.logit(inputs, inputs.xt), log_p - log_q) < 1e-9


def test_the_exact_discriminator_needs_a_density(prior):
    with pytest.raises(ValueError, match=r"density of this model is not known.*feature"):
        ExactDiscriminator().build(prior, setup_of(prior, torch.zeros(1, *prior.shape)))


# the generator's loss


def trained(prior, x0, steps, t=None, config=SMALL):
    """A discriminator of fixed samples, trained at all times or at one."""
    if t is not None:
        config = replace(config, timesteps=FixedTimesteps(t))
    discriminator = config.build(prior, setup_of(prior, x0))
    losses = []
    for step in range(steps):
        inputs = replace(inputs_of(prior, x0, 0.5), rng=row_rng(len(x0), 99, step))
        losses.append(float(discriminator.fit(inputs)["discriminator"]))
    return discriminator, losses


@pytest.mark.parametrize("t", [0.1, 0.7])
def test_the_gradient_is_that_of_the_stated_loss(t):
    """Central differences of softplus(-logit) in x0, with a discriminator that has learned."""
    prior, x0 = mixture(), 2 + normal(4, 3, seed=2)
    discriminator, _ = trained(prior, x0, 40)
    discriminator.heads.double()
    inputs = inputs_of(prior, x0, t)

    def loss(x: Tensor) -> Tensor:
        xt = SD.add_noise(x, inputs.eps, inputs.t)
        condition = inputs.conditions.pos
        logit = discriminator._logit([xt], inputs.t, condition)
        return F.softplus(-logit)

    # the model reads its features in float32; the heads alone are differentiated here
    discriminator._features = lambda xt, t, condition: [xt]
    _, gradient = judge(discriminator, inputs)
    h = 1e-4
    found = torch.stack(
        [
            (loss(x0 + h * unit) - loss(x0 - h * unit)) / (2 * h)
            for unit in torch.eye(3, dtype=torch.float64)
        ],
        1,
    )
    assert float(gradient.abs().max()) > 1e-3
    assert max_difference(gradient, found) < 1e-6


def test_the_direction_adds_the_gradient_of_the_weighted_loss():
    """gan_weight D d/dx0 softplus(-logit), beside the half square whose gradient is divided."""
    prior, x0 = mixture(), normal(4, 3, seed=2)
    setup, inputs = setup_of(prior, x0), inputs_of(prior, x0, 0.5)
    plain = DMD2(1.0, critic=ExactCritic())
    method = DMD2(1.0, critic=ExactCritic(), gan_weight=0.5, discriminator=ExactDiscriminator())
    state = method.init(prior, setup)
    direction = method(prior, inputs, state)
    _, gradient = judge(state.discriminator, inputs)
    without = plain(prior, inputs, plain.init(prior, setup))
    assert max_difference(direction - without, 0.5 * 3 * gradient) < 1e-12
    assert float(gradient.abs().max()) > 1e-3


# what is learned


def test_an_untrained_discriminator_has_the_logit_0(prior):
    for model in (mixture(), prior):
        x0 = normal(3, *model.shape, seed=2).float()
        discriminator = SMALL.build(model, setup_of(model, x0))
        inputs = inputs_of(model, x0, 0.5)
        logit, gradient = judge(discriminator, inputs)
        assert not logit.any() and not gradient.any()


def test_the_loss_falls_to_the_optimum_and_stays_at_chance_on_samples_of_the_prior():
    """At one time, where the loss of the optimal discriminator is known; chance is 2 log 2."""
    prior = GaussianMixture(f64([[1.0, 0.0], [-1.0, 0.0]]), f64([0.3, 0.3]))
    other = GaussianMixture(f64([[0.0, 1.5]]), f64([0.3]))
    rows, chance, losses = 64, 2 * math.log(2), {}
    samples = {
        "other": other.means + 0.3 * normal(rows, 2, seed=7),
        "prior": prior.means[torch.arange(rows) % 2] + 0.3 * normal(rows, 2, seed=8),
    }
    for name, x0 in samples.items():
        _, found = trained(prior, x0, 100, t=0.3)
        assert found[0] == pytest.approx(chance, abs=1e-6)
        losses[name] = sum(found[-30:]) / 30
    best = 0.0
    for name, sign in (("other", 1), ("prior", -1)):
        inputs = inputs_of(prior, samples[name].repeat(50, 1), 0.3)
        log_p, log_q = (
            model.log_density(inputs.xt, inputs.t, prompt_conditions(model, [""] * 50 * rows).pos)
            for model in (prior, other)
        )
        best += float(F.softplus(sign * (log_p - log_q)).mean())
    assert best < 0.9
    assert best - 0.05 < losses["other"] < best + 0.1
    assert losses["prior"] > chance - 0.07


def test_the_learned_logit_approaches_the_log_ratio():
    """Two Gaussians at one time: log p_t - log q_t is linear, and known."""
    prior = GaussianMixture(f64([[0.0]]), f64([1.0]))
    rows = 512
    quantiles = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    x0 = 1 + torch.distributions.Normal(0.0, 1.0).icdf(quantiles)[:, None]
    # few steps of DDIM shrink a Gaussian
    discriminator, _ = trained(prior, x0, 100, 0.3, replace(SMALL, sampling_steps=40))
    inputs = inputs_of(prior, x0, 0.3)
    alpha = float(SD.alpha(inputs.t)[0])
    xt = torch.linspace(-1.5, 2.5, rows, dtype=torch.float64)[:, None]
    expected = alpha * (alpha / 2 - xt[:, 0])
    with torch.no_grad():
        error = discriminator.logit(inputs, xt) - expected
    assert float(error.abs().mean()) < 0.15
    assert float(expected.abs().mean()) > 0.5


def test_features_are_those_of_the_decoder_of_a_network(prior):
    x0 = torch.randn(2, *prior.shape, generator=torch.Generator().manual_seed(1))
    discriminator, losses = trained(prior, x0, 3)
    with prior.capture_attention() as features:
        prior(x0, torch.full((2,), 0.5), prior.condition(["", ""]))
    assert [h.first.in_channels for h in discriminator.heads] == [f.shape[1] for f in features]
    assert len(features) > 0 and losses[2] != losses[1]


# runs


def experiment(method, prior_kind: str, **options) -> Experiment:
    network = {"width": 8, "depth": 1} if prior_kind == "exact" else {}
    representation = Generator(critic_warmup=1, critic_steps=2, **network)
    prompts = LABELS if prior_kind == "exact" else ("a red mug",)
    return Experiment(
        prompts,
        method=method,
        **{"representation": representation, "particles": 2, "steps": 4, **options},
    )


def tensors_after(e: Experiment, prior, steps: int = 4) -> dict[str, Tensor]:
    run = Run(e, prior)
    for _ in range(steps):
        run.advance()
    return {k: v.clone() for k, v in run.tensors().items()}


@pytest.mark.parametrize("kind", ["exact", "tiny"])
def test_a_discriminator_of_weight_0_changes_no_bit_of_a_run(kind, prior):
    model = mixture() if kind == "exact" else prior
    off = tensors_after(experiment(DMD2(1.0), kind), model)
    method = DMD2(1.0, gan_weight=0.0, discriminator=SMALL)
    on = tensors_after(experiment(method, kind), model)
    added = {k for k in on if k.startswith("state.discriminator.")}
    assert added and set(on) - added == set(off)
    assert all(torch.equal(on[k], off[k]) for k in off)


def test_without_a_discriminator_the_state_is_the_critic_alone():
    prior, x0 = mixture(), normal(4, 3, seed=2)
    state = DMD2().init(prior, setup_of(prior, x0))
    assert not isinstance(state, DiscriminatedCritic)


@pytest.mark.parametrize("kind", ["exact", "tiny"])
@pytest.mark.parametrize("cls", [DMD2, FDistill])
def test_a_resumed_run_continues_bit_for_bit(kind, cls, prior):
    model = mixture() if kind == "exact" else prior
    e = experiment(cls(1.0, gan_weight=0.1, discriminator=SMALL), kind)
    whole = tensors_after(e, model)
    resumed = Run(e, model, pretrain=False)
    resumed.load(tensors_after(e, model, 2), 2)
    for _ in range(2):
        resumed.advance()
    found = resumed.tensors()
    assert set(found) == set(whole)
    assert all(torch.equal(found[k], whole[k]) for k in whole)
    assert any(k.startswith("state.discriminator.optimizer.") for k in found)


def test_the_gan_term_moves_samples_to_the_prior():
    """Alone, with the optimal discriminator: 32 points come from beside a Gaussian onto it."""
    prior = GaussianMixture(f64([[2.0, 0.0]]), f64([0.5]))
    method = DMD2(1.0, critic=ExactCritic(), gan_weight=2.0, discriminator=ExactDiscriminator())
    e = Experiment(
        ("x",),
        method=method,
        representation=Latents(lr=0.1, init_std=0.5),
        optimizer=SGD(),
        particles=32,
        steps=60,
    )
    run = Run(e, prior)
    start = run.representation.render(run.eval_request(1)).image.detach().mean(0)
    with pytest.MonkeyPatch.context() as patch:  # without the direction of DMD2
        patch.setattr(DMD2, "matching", lambda self, prior, inputs, state: _observed(inputs, state))
        for _ in range(60):
            run.advance()
    end = run.representation.render(run.eval_request(1)).image.detach().mean(0)
    target = torch.tensor([2.0, 0.0])
    assert float((start - target).norm()) > 1.5
    assert float((end - target).norm()) < 0.4


def _observed(inputs, state):
    state.observe(inputs)
    return torch.zeros_like(inputs.x0)


def test_discriminators_are_components():
    assert set(choices(DiscriminatorConfig)) == {"none", "exact", "feature"}


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"gan_weight must be at least 0"):
        Experiment(("x",), method=DMD2(gan_weight=-1.0))
    with pytest.raises(ValueError, match=r"sampling_steps must be at least 1"):
        Experiment(("x",), method=DMD2(discriminator=FeatureDiscriminator(sampling_steps=0)))
