"""Methods of one-step generators: identities and fixed points."""

import math
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from tiny_pipeline import f64, make_inputs, max_difference, normal, prompt_conditions
from torch import Tensor

from limbeck.config.command_line import parse
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.diffusion.schedule import RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.discriminators.base import DiscriminatedCritic, Discriminator
from limbeck.distillation.discriminators.none import NoDiscriminator
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.distillation.weights import UniformWeight
from limbeck.methods.denoising_student import DenoisingStudent
from limbeck.methods.dmd2 import DMD2
from limbeck.methods.f_distill import Divergence, FDistill
from limbeck.methods.sds import SDS
from limbeck.methods.sid import SiD
from limbeck.methods.sim import SIM
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture
from limbeck.representations.generator import Generator
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.trainer import Run

SCHEDULES = [stable_diffusion_schedule(), RectifiedFlowSchedule()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=["sd", "flow"])
every_time = pytest.mark.parametrize("t", [0.1, 0.5, 0.9])


class GivenX0(PriorWrapper):
    """A denoiser that predicts given x0 whatever it sees."""

    def __init__(self, prior: Prior, x0: Tensor):
        super().__init__(prior)
        self.x0 = x0

    def __call__(self, xt: Tensor, t: Tensor, *conditions: Condition) -> list[Prediction]:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return [Prediction.from_output("x0", self.x0, xt, alpha, sigma) for _ in conditions]


class GivenCritic(Critic):
    """A critic that is a given denoiser and is not trained."""

    def __init__(self, denoiser: Prior):
        self._denoiser = denoiser

    def prior(self) -> Prior:
        return self._denoiser

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors):
        pass

    def save(self, folder):
        pass


def given(schedule, t, scale=1.0):
    """A prior and a critic of given x0, and the inputs of five rows, all times a scale."""
    base = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)
    x, real, fake = (scale * normal(5, 4, seed=seed) for seed in (2, 3, 4))
    inputs = make_inputs(schedule, x, t, normal(5, 4, seed=5), prompt_conditions(base, [""] * 5))
    return GivenX0(base, real), GivenCritic(GivenX0(base, fake)), inputs, fake - real


# Identity 41


@every_schedule
@every_time
def test_identity_41_dmd2_is_vsd_of_weight_lambda_over_the_error_of_the_prior(schedule, t):
    """Identity 41, the direction and its size."""
    prior, critic, inputs, difference = given(schedule, t)
    size = (inputs.x0 - prior.x0).abs().mean(1, keepdim=True)
    direction = DMD2()(prior, inputs, critic)
    assert max_difference(direction, difference / size) < 1e-11
    lam = expand(schedule.sigma(inputs.t) / schedule.alpha(inputs.t), direction)
    vsd = lam * VSD()(prior, inputs, critic)
    assert max_difference(direction * size, vsd) < 1e-11
    of_x = GivenCritic(GivenX0(prior, inputs.x0))
    assert max_difference(DMD2()(prior, inputs, of_x).abs().mean(1), f64([1.0] * 5)) < 1e-12


@every_time
def test_identity_41_dmd2_does_not_depend_on_the_scale_of_x(t):
    """Identity 41, invariance."""
    directions = []
    for scale in (1.0, 40.0):
        prior, critic, inputs, _ = given(SCHEDULES[0], t, scale)
        directions.append(DMD2()(prior, inputs, critic))
    assert max_difference(*directions) < 1e-11


@every_schedule
@every_time
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dmd2_is_0_where_the_prior_knows_the_sample(schedule, t, dtype):
    """eps_hat - eps has the rounding of x_t, which is no size: a division by it would explode."""
    prior, critic, inputs, _ = given(schedule, t)
    x0, fake = inputs.x0.to(dtype), critic.prior().x0.to(dtype)
    inputs = replace(inputs, x0=x0, eps=inputs.eps.to(dtype))
    prior.x0, critic.prior().x0 = torch.cat([x0[:4], x0[4:] + 0.01]), fake
    direction = DMD2()(prior, inputs, critic)
    assert max_difference(direction[:4], torch.zeros(4, 4)) == 0
    # it knows the last row up to .01, of which rounding leaves half of the digits
    expected = (fake[4] - x0[4] - 0.01) / 0.01
    bound = torch.finfo(dtype).eps ** 0.5 * float(expected.abs().max())
    assert max_difference(direction[4], expected) < bound


# Identity 42


@every_schedule
@every_time
@pytest.mark.parametrize("a", [0.0, 0.5, 1.0, 1.2])
def test_identity_42_sid_with_detached_networks_is_vsd_for_every_a(schedule, t, a):
    """Identity 42, networks that do not depend on x_t."""
    prior, critic, inputs, difference = given(schedule, t)
    size = (inputs.x0 - prior.x0).abs().mean(1, keepdim=True)
    assert max_difference(SiD(a=a)(prior, inputs, critic), difference / size) < 1e-11


def scalar_case(target: float, own: float, t: float):
    """x = sqrt(own) z, exact prior N(0, target) and critic N(0, own), at z and eps of +-1.

    The four rows have the second moments of independent normal numbers, so that means over them of
    quadratic forms are exact.
    """
    prior, critic = (
        GaussianMixture(f64([[0.0]]), f64([variance**0.5])) for variance in (target, own)
    )
    z, eps = f64([[1.0], [1.0], [-1.0], [-1.0]]), f64([[1.0], [-1.0], [1.0], [-1.0]])
    x = own**0.5 * z
    inputs = make_inputs(SCHEDULES[0], x, t, eps, prompt_conditions(prior, [""] * 4))
    alpha, sigma = (float(f(inputs.t)[0]) for f in (SCHEDULES[0].alpha, SCHEDULES[0].sigma))
    gain_p, gain_q = (alpha * c / (alpha**2 * c + sigma**2) for c in (target, own))
    return prior, GivenCritic(critic), inputs, z, (alpha, gain_p, gain_q)


@pytest.mark.parametrize("own", [0.25, 4.0, 9.0])
@pytest.mark.parametrize("a", [0.0, 1.0, 1.2])
@every_time
def test_identity_42_sid_of_a_gaussian_generator(own, a, t):
    """Identity 42, the gradient in the scale of x = a_g z, and the loss with an exact critic."""
    prior, critic, inputs, z, (alpha, gain_p, gain_q) = scalar_case(1.0, own, t)
    f = gain_p * inputs.xt
    w = (inputs.x0 - f).abs().clamp_min(1e-5)
    gradient = float((SiD(guidance=1.0, a=a)(prior, inputs, critic) * w * z).mean())
    difference = gain_p - gain_q
    expected = 2 * own**0.5 * alpha * difference * (alpha * gain_p - 1 - a * alpha * difference)
    assert gradient == pytest.approx(expected, abs=1e-12)
    psi = gain_q * inputs.xt
    loss = (SiD(a=a).loss(inputs.x0, f, psi) * w.squeeze(1)).mean()
    assert float(loss) == pytest.approx((1 - a) * float((f - psi).square().mean()), abs=1e-12)


def test_identity_42_a_of_1_2_reverses_the_sign_at_low_noise():
    """Identity 42, an over-dispersed generator: with a = 1.2 it is pushed further out."""
    found = {}
    for a in (1.0, 1.2):
        prior, critic, inputs, z, (alpha, gain_p, gain_q) = scalar_case(1.0, 9.0, 0.02)
        w = (inputs.x0 - gain_p * inputs.xt).abs().clamp_min(1e-5)
        found[a] = float((SiD(guidance=1.0, a=a)(prior, inputs, critic) * w * z).mean())
    assert 1.2 * alpha * gain_q > 1 + 0.2 * alpha * gain_p
    assert found[1.0] > 0 > found[1.2]


# Identity 43


@every_schedule
@every_time
def test_identity_43_sim_with_detached_networks_is_vsd_of_unit_norm(schedule, t):
    """Identity 43, and the norm |y| / sqrt(|y|^2 + c^2) of the pseudo-Huber distance."""
    prior, critic, inputs, difference = given(schedule, t)
    norm = difference.norm(dim=1, keepdim=True)
    assert max_difference(SIM(c=0.0)(prior, inputs, critic), difference / norm) < 1e-12
    for c in (0.3, 1.0, 5.0):
        expected = difference / (norm**2 + c**2).sqrt()
        assert max_difference(SIM(c=c)(prior, inputs, critic), expected) < 1e-12


@every_schedule
@every_time
@pytest.mark.parametrize("c", [0.0, 1e-3, 0.7])
def test_identity_43_sim_through_both_networks_of_gaussians(schedule, t, c):
    """Identity 43, with networks that depend on x_t: f = m + k (x_t - alpha m) for each of them.

    y = f - psi and psi have the slopes alpha (k_p - k_q) and alpha k_q in x, and the distance d has
    the gradient u = y / r and the Hessian (1 - u u^T) / r, where r^2 = |y|^2 + c^2.
    """
    means, variances = (f64([0.4, -0.2, 0.1, 0.9]), f64([-0.5, 0.3, 0.6, 0.2])), (0.5, 1.3)
    networks = [
        GaussianMixture(mean[None], f64([variance**0.5]), schedule=schedule)
        for mean, variance in zip(means, variances, strict=True)
    ]
    prior, critic = networks[0], GivenCritic(networks[1])
    conditions = prompt_conditions(prior, [""] * 5)
    inputs = make_inputs(schedule, normal(5, 4, seed=2), t, normal(5, 4, seed=5), conditions)
    alpha, sigma = (float(f(inputs.t)[0]) for f in _levels(schedule))
    gains = [alpha * v / (alpha**2 * v + sigma**2) for v in variances]
    f, psi = (
        mean + gain * (inputs.xt - alpha * mean) for mean, gain in zip(means, gains, strict=True)
    )
    r = ((f - psi).square().sum(1, keepdim=True) + c**2).sqrt()
    u, rest = (f - psi) / r, psi - inputs.x0
    through_y = alpha * (gains[0] - gains[1]) * (rest - u * (u * rest).sum(1, keepdim=True)) / r
    expected = through_y + (alpha * gains[1] - 1) * u
    size = float(through_y.abs().max())
    assert size > 1e-3  # so that a part that is left out is seen
    assert max_difference(SIM(1.0, c=c)(prior, inputs, critic), expected) < 1e-11 * (1 + size)


def test_sim_is_0_if_the_critic_is_the_prior():
    prior, _, inputs, _ = given(SCHEDULES[0], 0.5)
    direction = SIM(c=0.0)(prior, inputs, GivenCritic(prior))
    assert max_difference(direction, torch.zeros_like(direction)) == 0


# Identity 44


class Gaussian(PriorWrapper):
    """The exact denoiser of N(mean, covariance)."""

    def __init__(self, base: Prior, mean: Tensor, covariance: Tensor):
        super().__init__(base)
        self.mean, self.covariance = mean, covariance

    def __call__(self, xt: Tensor, t: Tensor, *conditions: Condition) -> list[Prediction]:
        a, s = (f(t).to(self.mean) for f in (self.schedule.alpha, self.schedule.sigma))
        variance = (a**2)[:, None, None] * self.covariance
        variance = variance + (s**2)[:, None, None] * torch.eye(len(self.mean))
        centered = xt.to(self.mean) - a[:, None] * self.mean
        eps = s[:, None] * torch.linalg.solve(variance, centered[..., None])[..., 0]
        x0 = (xt - s[:, None] * eps) / a[:, None]
        return [Prediction(x0.to(xt), eps.to(xt)) for _ in conditions]


@dataclass(frozen=True)
class LawCritic(CriticConfig):
    """The exact denoiser of a Gaussian, at first that of the prior."""

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        return GivenCritic(Gaussian(prior, prior.mean, prior.covariance))


MEAN, COVARIANCE = f64([0.5, -0.3]), f64([[1.0, 0.4], [0.4, 0.5]])
BASE = GaussianMixture(f64([[0.0, 0.0]]), f64([1.0]))
#: a root of COVARIANCE that is neither triangular nor symmetric
ROOT = torch.linalg.cholesky(COVARIANCE) @ f64([[0.6, -0.8], [0.8, 0.6]])
WITH_CRITIC = {
    "vsd": VSD(1.0, critic=LawCritic()),
    "dmd2": DMD2(1.0, critic=LawCritic()),
    "sid": SiD(1.0, critic=LawCritic()),
    "sim": SIM(1.0, critic=LawCritic()),
}
with_critic = pytest.mark.parametrize("method", WITH_CRITIC.values(), ids=WITH_CRITIC)


def at_rest(method, a: Tensor, b: Tensor, t: float) -> float:
    """The greatest entry of the mean gradient of (A, b) of x = A z + b with the exact critic.

    The mean is over pairs of opposite noise, which is exact for SDS.
    """
    prior, own = Gaussian(BASE, MEAN, COVARIANCE), Gaussian(BASE, b, a @ a.T)
    z, eps = normal(16, 2, seed=1), normal(16, 2, seed=2)
    z, eps = torch.cat([z, z]), torch.cat([eps, -eps])
    conditions = prompt_conditions(prior, [""] * 32)
    inputs = make_inputs(prior.schedule, z @ a.T + b, t, eps, conditions)
    direction = method(prior, inputs, GivenCritic(own))
    of_a = direction.T @ z / len(z)
    return max(float(of_a.abs().max()), float(direction.mean(0).abs().max()))


@with_critic
@every_time
def test_identity_44_the_gaussian_of_the_prior_is_at_rest_and_no_other(method, t):
    """Identity 44, a generator with A A^T = C and b = m."""
    assert at_rest(method, ROOT, MEAN, t) < 1e-11
    for a, b in ((1.05 * ROOT, MEAN), (ROOT.T, MEAN), (ROOT, MEAN + 0.05)):
        assert at_rest(method, a, b, t) > 1e-4


@every_time
def test_identity_44_sds_is_at_rest_at_the_mean_alone(t):
    """Identity 44, SDS: at A = 0 and b = m, not at A A^T = C."""
    assert at_rest(SDS(1.0), 0 * ROOT, MEAN, t) < 1e-12
    assert at_rest(SDS(1.0), ROOT, MEAN, t) > 0.01
    assert at_rest(SDS(1.0), 0 * ROOT, MEAN + 0.05, t) > 1e-4


def trained_map(method, steps: int) -> tuple[Tensor, Tensor]:
    """(A, b) of an affine generator trained under a Gaussian prior, read from its weights."""
    prior = Gaussian(BASE, MEAN, COVARIANCE)
    e = Experiment(
        ("x",),
        method=method,
        representation=Generator(lr=0.02, ema=0.0, depth=0, critic_warmup=0),
        weight=UniformWeight(),
        optimizer=Adam(decay_start=0.3),
        particles=400,
        steps=steps,
    )
    run = Run(e, prior)
    z = torch.cat([torch.zeros(1, 2), torch.eye(2)])

    def read() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            x = run.representation.sample(z, prior.condition(["x"] * 3)).double()
        return (x[1:] - x[0]).T, x[0]

    def observe(inputs: StepInputs) -> None:
        a, b = read()
        own = run.state.prior()
        own.mean, own.covariance = b, a @ a.T

    if isinstance(run.state, GivenCritic):
        run.state.observe = observe
    for _ in range(steps):
        run.advance()
    return read()


@with_critic
def test_identity_44_an_affine_generator_reaches_the_gaussian_of_the_prior(method):
    """Identity 44, with a critic: at rest no noise is left, so training comes arbitrarily near."""
    a, b = trained_map(method, 200)
    assert max_difference(b, MEAN) < 1e-3
    assert max_difference(a @ a.T, COVARIANCE) < 1e-3


def test_identity_44_sds_shrinks_an_affine_generator_to_the_mean():
    """Identity 44, SDS, whose noise stays at rest and leaves b off m."""
    a, b = trained_map(SDS(1.0), 200)
    assert max_difference(b, MEAN) < 0.05
    assert float((a @ a.T).diagonal().max()) < 1e-3


# Diff-Instruct


def test_diff_instruct_of_the_page_descends_the_difference_of_the_predictions():
    """x0_hat_fake - x0_hat_real, of weight 1 at every t; prior and critic are known Gaussians."""
    page = (Path(__file__).parents[2] / "docs/one-step.md").read_text(encoding="utf-8")
    (options,) = re.findall(r"^Diff-Instruct is `(--method .+)`\.$", page, re.M)
    more = "--model gaussians --representation generator --particles 64 --steps 1"
    arguments = ["red disc", *shlex.split(options), *more.split()]
    (e,) = parse([(Experiment, None)], arguments, "run", "", "prompts")
    assert e.method == VSD(1.0, critic=NetworkCritic())
    prior = Gaussian(BASE, MEAN, COVARIANCE)
    run = Run(replace(e, method=replace(e.method, critic=LawCritic())), prior)
    own = run.state.prior()
    own.mean, own.covariance = f64([-0.2, 0.4]), f64([[0.3, -0.1], [-0.1, 0.8]])
    step = run.advance()
    alpha, sigma = (f(step.inputs.t.double())[:, None] for f in _levels(prior.schedule))

    def x0_hat(mean: Tensor, covariance: Tensor) -> Tensor:
        """m + alpha C S_t^-1 (x_t - alpha m), in the directions in which C is diagonal."""
        variances, axes = torch.linalg.eigh(covariance)
        centered = (step.inputs.xt - alpha * mean) @ axes
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        return mean + (gain * centered) @ axes.T

    expected = x0_hat(own.mean, own.covariance) - x0_hat(MEAN, COVARIANCE)
    assert float(step.inputs.t.max() - step.inputs.t.min()) > 0.8
    assert max_difference(step.gradient, expected) < 1e-5


# Identity 47

#: f of each divergence D_f(p | q) = E_q[f(r)]
F_OF_R = {
    "reverse-kl": lambda r: -r.log(),
    "forward-kl": lambda r: r * r.log(),
    "js": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "softened-reverse-kl": lambda r: (r + 1) * ((r + 1) / (2 * r)).log(),
    "neyman": lambda r: (1 - r) ** 2 / r,
    "hellinger": lambda r: (1 - r.sqrt()) ** 2,
    "jeffreys": lambda r: (r - 1) * r.log(),
}
every_divergence = pytest.mark.parametrize("divergence", F_OF_R)


class GivenLogit(Discriminator):
    """A discriminator whose logit is a given function of x_t and t."""

    def __init__(self, function):
        self._function = function

    def logit(self, inputs: StepInputs, xt: Tensor) -> Tensor:
        return self._function(xt, inputs.t)


def test_identity_47_every_divergence_has_a_second_derivative():
    """Identity 47, the cases below."""
    assert set(F_OF_R) == set(get_args(Divergence))


@every_divergence
def test_identity_47_h_is_the_second_derivative_of_f(divergence):
    """Identity 47, h(r) = r^2 f''(r) up to a factor."""
    r = torch.linspace(0.2, 5.0, 30, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(F_OF_R[divergence](r).sum(), r, create_graph=True)[0]
    second = torch.autograd.grad(slope.sum(), r)[0]
    h = FDistill(divergence=divergence, normalize=False).h(r.detach().log(), f64([0.5] * 30))
    factor = h / (r.detach() ** 2 * second)
    assert max_difference(factor, factor[:1].expand(30)) < 1e-10 * float(factor[0])


@every_schedule
@every_time
def test_identity_47_reverse_kl_is_dmd2_bit_for_bit(schedule, t):
    """Identity 47, with and without a discriminator of unequal logits."""
    prior, critic, inputs, _ = given(schedule, t)
    without = FDistill(divergence="reverse-kl", discriminator=NoDiscriminator())
    assert torch.equal(without(prior, inputs, critic), DMD2()(prior, inputs, critic))
    both = DiscriminatedCritic(critic, GivenLogit(lambda xt, t: xt.sum(1)))
    of_dmd2 = DMD2(gan_weight=0.3)(prior, inputs, both)
    found = FDistill(divergence="reverse-kl", gan_weight=0.3)(prior, inputs, both)
    assert torch.equal(found, of_dmd2)
    assert not torch.equal(found, DMD2()(prior, inputs, critic))
    js = FDistill(divergence="js", gan_weight=0.3)(prior, inputs, both)
    assert max_difference(js, of_dmd2) > 1e-2


@every_divergence
def test_identity_47_a_constant_ratio_is_dmd2(divergence):
    """Identity 47, r equal for all rows at times in several bins, and in each bin by itself."""
    prior, critic, inputs, _ = given(SCHEDULES[0], f64([0.1, 0.1, 0.5, 0.9, 0.9]))
    plain = DMD2(gan_weight=0.0)(prior, inputs, critic)
    for of_t in (lambda t: 0 * t + 0.7, lambda t: 2 * t - 1):
        both = DiscriminatedCritic(critic, GivenLogit(lambda xt, t, f=of_t: f(t) + 0 * xt.sum(1)))
        found = FDistill(divergence=divergence, gan_weight=0.0)(prior, inputs, both)
        assert max_difference(found, plain) < 1e-12 * float(plain.abs().max())


#: derivative in the mean mu of q = N(mu, v) of a divergence from p = N(0, v), over mu / v, and
#: divided by the factor between r^2 f''(r) and h(r)
RATES = {
    "reverse-kl": lambda mu, v: 1.0,
    "forward-kl": lambda mu, v: 1.0,
    "jeffreys": lambda mu, v: 2.0,
    "neyman": lambda mu, v: math.exp(mu**2 / v),
    "hellinger": lambda mu, v: math.exp(-(mu**2) / (8 * v)),
}


@pytest.mark.parametrize("divergence", RATES)
@every_time
def test_identity_47_the_mean_is_the_gradient_of_the_divergence_of_gaussians(divergence, t):
    """Identity 47, over x_t of q_t by quadrature: sigma d/dmu D_f(p_t | q_t), mu = alpha theta."""
    theta, variance = 0.15, 0.8
    prior, own = (GaussianMixture(f64([[m]]), f64([variance**0.5])) for m in (0.0, theta))
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    alpha, sigma = (float(f(SCHEDULES[0].snap(f64([t])))) for f in _levels(SCHEDULES[0]))
    v = alpha**2 * variance + sigma**2
    xt = (alpha * theta + v**0.5 * nodes)[:, None]
    x0 = torch.full_like(xt, 0.4)  # of no effect: the mean over the noise is a function of x_t
    eps = (xt - alpha * x0) / sigma
    inputs = make_inputs(SCHEDULES[0], x0, t, eps, prompt_conditions(prior, [""] * 40))

    def log_ratio(x: Tensor, t: Tensor) -> Tensor:
        return ((x - alpha * theta) ** 2 - x**2).sum(1) / (2 * v)

    state = DiscriminatedCritic(GivenCritic(own), GivenLogit(log_ratio))
    method = FDistill(1.0, divergence=divergence, normalize=False, gan_weight=0.0)
    assert float(log_ratio(xt, inputs.t).exp().min()) > 0.1  # no ratio is clamped
    assert float(log_ratio(xt, inputs.t).exp().max()) < 20
    size = (prior(xt, inputs.t, inputs.conditions.pos)[0].eps - eps).abs()
    direction = (method(prior, inputs, state) * size)[:, 0]
    mean = float((weights / weights.sum()) @ direction)
    mu = alpha * theta
    assert mean == pytest.approx(sigma * mu / v * RATES[divergence](mu, v), rel=1e-9)


def _levels(schedule):
    return schedule.alpha, schedule.sigma


def test_f_distill_needs_a_ratio():
    with pytest.raises(ValueError, match=r"divergence js needs the density ratio.*feature"):
        FDistill(discriminator=NoDiscriminator())
    with pytest.raises(ValueError, match=r"divergence must be one of reverse-kl, .*not 'kl'"):
        FDistill(divergence="kl")


def test_the_ratio_is_clamped_as_in_the_code():
    h = FDistill(divergence="forward-kl", normalize=False).h(f64([-9.0, 0.0, 9.0]), f64([0.5] * 3))
    assert max_difference(h, f64([0.1, 1.0, 20.0])) < 1e-12


# Identity 50


@every_schedule
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_identity_50_denoising_student_is_0_at_the_map_of_the_sampler(schedule, steps):
    """Identity 50, DDIM on a Gaussian as a product of gains."""
    mean, variance = 0.7, 0.3
    prior = GaussianMixture(f64([[mean] * 4]), f64([variance**0.5]), schedule=schedule)
    times = schedule.sampling_times(steps)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    total = alpha**2 * variance + sigma**2
    kept = (alpha[1:] * alpha[:-1] * variance + sigma[1:] * sigma[:-1]) / total[:-1]
    gain = kept.prod() * alpha[-1] * variance / total[-1]
    x0, eps = normal(5, 4, seed=2), normal(5, 4, seed=3)
    inputs = make_inputs(schedule, x0, 0.5, eps, prompt_conditions(prior, [""] * 5))
    z = inputs.rng.normal("z", 4).double()
    sample = mean + gain * (z - alpha[0] * mean)
    found = DenoisingStudent(1.0, steps)(prior, inputs, Stateless())
    assert max_difference(found, inputs.x0 - sample) < 1e-11


def test_identity_50_an_affine_generator_becomes_the_sampler():
    """Identity 50, the noise is the one that the generator was given."""
    prior = Gaussian(GaussianMixture(f64([[0.0, 0.0]]), f64([1.0])), MEAN, COVARIANCE)
    e = Experiment(
        ("x",),
        method=DenoisingStudent(1.0, 4),
        representation=Generator(lr=0.05, ema=0.0, depth=0),
        weight=UniformWeight(),
        optimizer=Adam(decay_start=0.3),
        particles=16,
        steps=150,
    )
    run = Run(e, prior)
    sizes = [float(run.advance().gradient.abs().mean()) for _ in range(e.steps)]
    assert sizes[0] > 0.3
    assert sizes[-1] < 0.01
