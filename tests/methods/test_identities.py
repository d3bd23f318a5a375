"""The numbered identities that hold for exact scores, through the real methods."""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log, pi, sqrt

import numpy as np
import pytest
import torch
from tiny_pipeline import class_conditions, make_inputs, f64, normal, rng, prompt_conditions, max_difference
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import sample
from limbeck.diffusion.schedule import CosineSchedule, DiscreteSchedule, RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import FixedPerParticleNoise
from limbeck.distillation.state import Stateless
from limbeck.distillation.surrogate import surrogate
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.distillation.weights import LambdaWeight, UniformWeight, Weight
from limbeck.methods.base import StatelessMethod
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam, SGD
from limbeck.training.trainer import Run, steps

TIMES = [0.03, 0.2, 0.5, 0.8, 0.97]
SCHEDULES = [stable_diffusion_schedule(), CosineSchedule(), RectifiedFlowSchedule()]
SD = stable_diffusion_schedule()
FREE = Stateless()


def at(schedule, t: float) -> tuple[float, float]:
    """alpha and sigma."""
    t = f64([t])
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def gaussian(mean: Tensor, std: float, schedule=SD) -> GaussianMixture:
    return GaussianMixture(mean[None], f64([std]), schedule=schedule)


def alone(rows: int) -> Conditions:
    return class_conditions(rows, (1.0,), (1.0,))


def pair(null: Tensor, pos: Tensor, null_std: float, pos_std: float) -> GaussianMixture:
    """Null is N(null, null_std^2), the prompt N(pos, pos_std^2)."""
    return GaussianMixture(torch.stack([null, pos]), f64([null_std, pos_std]))


def sided(rows: int) -> Conditions:
    return class_conditions(rows, (1.0, 0.0), (0.0, 1.0))


def quadrature(nodes: int = 80) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the expectation over N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.tensor(points), torch.tensor(weights / weights.sum())


MIX = {"means": torch.tensor([[-1.3], [0.4], [1.9]], dtype=torch.float64), "stds": f64([0.5, 0.9, 0.4]),
       "weights": f64([0.5, 0.2, 0.3])}  # fmt: skip


def density(z: Tensor, alpha: float, sigma: float) -> Tensor:
    """p_t of the mixture, written out."""
    var = alpha**2 * MIX["stds"] ** 2 + sigma**2
    return (
        MIX["weights"]
        * (-((z[:, None] - alpha * MIX["means"][:, 0]) ** 2) / (2 * var)).exp()
        / (2 * pi * var).sqrt()
    ).sum(1)


def divergence(x: float, alpha: float, sigma: float) -> float:
    """KL(N(alpha x, sigma^2) || p_t) on a grid."""
    z = torch.linspace(alpha * x - 11 * sigma, alpha * x + 11 * sigma, 4001, dtype=torch.float64)
    q = (-((z - alpha * x) ** 2) / (2 * sigma**2)).exp() / sqrt(2 * pi * sigma**2)
    log_q = -((z - alpha * x) ** 2) / (2 * sigma**2) - 0.5 * log(2 * pi * sigma**2)
    return float(torch.trapezoid(q * (log_q - density(z, alpha, sigma).log()), z))


@pytest.mark.parametrize("t", TIMES[1:])
@pytest.mark.parametrize("x", [-0.7, 0.0, 1.1])
def test_identity_01_sds_is_the_gradient_of_a_weighted_divergence(x, t):
    prior = GaussianMixture(**MIX)
    alpha, sigma = at(SD, float(SD.snap(f64([t]))))
    eps, share = quadrature()
    rows = len(eps)
    direction = SDS(1.0)(
        prior,
        make_inputs(
            SD,
            torch.full((rows, 1), x, dtype=torch.float64),
            t,
            eps[:, None],
            class_conditions(rows, (1, 1, 1), (1, 1, 1)),
        ),
        FREE,
    )
    h = 2e-3  # five points: the error of the difference is of order h^4
    kl = [divergence(x + k * h, alpha, sigma) for k in (-2, -1, 1, 2)]
    slope = (kl[0] - 8 * kl[1] + 8 * kl[2] - kl[3]) / (12 * h)
    assert abs(float((share * direction[:, 0]).sum()) - sigma / alpha * slope) < 1e-8


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", TIMES)
def test_identity_02_sds_of_a_gaussian_per_sample(schedule, t):
    mean, c = normal(3, seed=1), 0.7**2
    prior, x0, eps = gaussian(mean, 0.7, schedule), normal(6, 3, seed=2), normal(6, 3, seed=3)
    s = make_inputs(schedule, x0, t, eps, alone(6))
    alpha, sigma = at(schedule, float(s.t[0]))
    total = alpha**2 * c + sigma**2
    expected = sigma * alpha / total * (x0 - mean) - alpha**2 * c / total * eps
    assert max_difference(SDS(1.0)(prior, s, FREE), expected) < 1e-12


@pytest.mark.parametrize("t", TIMES)
def test_identity_02_mean_and_variance_over_the_noise(t):
    mean, c = f64([0.3]), 0.7**2
    eps, share = quadrature(20)
    s = make_inputs(SD, torch.full((20, 1), 1.2, dtype=torch.float64), t, eps[:, None], alone(20))
    alpha, sigma = at(SD, float(s.t[0]))
    total = alpha**2 * c + sigma**2
    got = SDS(1.0)(gaussian(mean, 0.7), s, FREE)[:, 0]
    middle = (share * got).sum()
    assert abs(float(middle) - sigma * alpha / total * 0.9) < 1e-12
    assert abs(float((share * (got - middle) ** 2).sum()) - (alpha**2 * c / total) ** 2) < 1e-12


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, 100.0])
def test_identity_04_guided_sds_rests_at_the_extrapolated_mean(scale, t):
    null, pos = normal(2, seed=1), normal(2, seed=2)
    prior = pair(null, pos, 0.6, 0.6)
    rest = null + scale * (pos - null)
    eps = normal(5, 2, seed=3)
    both = make_inputs(
        SD, rest.expand(10, 2).clone(), t, torch.cat([eps, -eps]), sided(10)
    )  # antithetic: exact for linear denoisers
    mean = SDS(scale)(prior, both, FREE).unflatten(0, (2, 5)).mean(0)
    assert max_difference(mean, torch.zeros_like(mean)) < 1e-13 * (1 + scale)
    off = SDS(scale)(prior, replace(both, x0=both.x0 + 1), FREE).unflatten(0, (2, 5)).mean(0)
    alpha, sigma = at(SD, float(both.t[0]))
    assert max_difference(
        off, torch.full_like(off, sigma * alpha / (alpha**2 * 0.36 + sigma**2))
    ) < 1e-13 * (1 + scale)


@pytest.mark.parametrize("t", TIMES)
def test_identity_04_with_unequal_widths_the_rest_depends_on_time(t):
    null, pos, scale = normal(2, seed=1), normal(2, seed=2), 3.0
    prior = pair(null, pos, 1.0, 0.5)
    eps = normal(5, 2, seed=3)
    s = make_inputs(SD, torch.zeros(10, 2).double(), t, torch.cat([eps, -eps]), sided(10))
    alpha, sigma = at(SD, float(s.t[0]))
    a, b = (1 - scale) / (alpha**2 + sigma**2), scale / (alpha**2 * 0.25 + sigma**2)
    rest = (a * null + b * pos) / (a + b)
    mean = SDS(scale)(prior, replace(s, x0=rest.expand(10, 2)), FREE).unflatten(0, (2, 5)).mean(0)
    assert max_difference(mean, torch.zeros_like(mean)) < 1e-11


def test_identity_04_a_run_comes_to_rest_where_it_should_and_spreads_as_it_should():
    """With one time and plain descent the particles are an autoregression of known mean and variance."""
    null, pos, scale, t = (
        torch.full((8,), -0.5, dtype=torch.float64),
        torch.full((8,), 0.5, dtype=torch.float64),
        3.0,
        0.4,
    )
    rate, n, c = 0.3, 40, 0.49
    prior = pair(null, pos, 0.7, 0.7)
    prior.labels = ("plain", "bright")
    prior.condition = lambda texts: Condition(
        torch.stack(
            [
                torch.tensor([0.0, -torch.inf] if x == "" else [-torch.inf, 0.0]).double()
                for x in texts
            ]
        )
    )
    alpha, sigma = at(SD, t)
    total = alpha**2 * c + sigma**2
    keep, kick = 1 - rate * sigma * alpha / total, rate * alpha**2 * c / total
    assert keep**60 < 1e-4  # at rest by then
    run = Run(Experiment(("bright",), method=SDS(scale), representation=Latents(rate), optimizer=SGD(), weight=UniformWeight(),
                         timesteps=FixedTimesteps(t), particles=n, steps=100), prior)  # fmt: skip
    seen = []
    while run.step < 100:
        run.advance()
        if run.step > 60:
            seen.append(torch.stack(list(run.representation.particles)).detach().double())
    x = torch.stack(seen)  # [40, n, 8]
    spread = kick / sqrt(1 - keep**2)
    # an autoregression averages like fewer independent draws
    draws = n * 8 * len(seen) * (1 - keep) / (1 + keep)
    assert abs(float(x.mean()) - (-0.5 + scale)) < 4 * spread / sqrt(draws)
    fewer = n * 8 * len(seen) * (1 - keep**2) / (1 + keep**2)
    assert abs(float((x - 2.5).square().mean()) / spread**2 - 1) < 4 * sqrt(2 / fewer)


@pytest.mark.parametrize("t", TIMES)
def test_identity_06_vsd_with_one_particle_and_exact_critic_is_sds_per_sample(t):
    prior, x0 = pair(normal(4, seed=1), normal(4, seed=2), 0.5, 0.8), normal(3, 4, seed=3)
    s = make_inputs(SD, x0, t, normal(3, 4, seed=4), sided(3))
    method = VSD(7.5, critic=ExactCritic())
    state = method.init(
        prior, SetupContext(3, 3, 0, torch.zeros_like(x0))
    )  # three prompts of one particle; told of x0 by the step itself
    assert max_difference(method(prior, s, state), SDS(7.5)(prior, s, FREE)) < 1e-12


@pytest.mark.parametrize("t", TIMES)
def test_identity_06_does_not_hold_for_two_particles(t):
    prior, x0 = pair(normal(4, seed=1), normal(4, seed=2), 0.5, 0.8), 0.1 * normal(2, 4, seed=3)
    s = make_inputs(SD, x0, t, normal(2, 4, seed=4), sided(2))
    method = VSD(7.5, critic=ExactCritic())
    assert (
        max_difference(
            method(prior, s, method.init(prior, SetupContext(2, 1, 0, x0))),
            SDS(7.5)(prior, s, FREE),
        )
        > 1e-3
    )


class Given(Critic):
    """A critic that is some prior, told nothing."""

    def __init__(self, q):
        self.q = q

    def prior(self):
        return self.q

    def observe(self, sample):
        pass

    def fit(self, sample):
        return {}

    def tensors(self):
        return {}

    def load(self, tensors):
        pass

    def save(self, folder):
        pass


class Unconditional:
    """A prior that hears no condition."""

    def __init__(self, q):
        self.q = q

    def __call__(self, xt, t, *conditions):
        return self.q(xt, t, *[self.q.condition([""] * len(xt))] * len(conditions))


class Normal(Given):
    """The Gaussian of the particles' own mean and variance."""

    def __init__(self, schedule):
        self.schedule = schedule

    def observe(self, sample):
        x = sample.x0.detach()
        self.q = Unconditional(
            gaussian(x.mean(0), float(x.var(correction=0).sqrt()), self.schedule)
        )


@dataclass(frozen=True)
class OfMoments(CriticConfig):
    def build(self, prior, start):
        return Normal(prior.schedule)


@pytest.mark.parametrize("t", TIMES)
def test_identity_07_vsd_vanishes_everywhere_when_the_critic_is_the_prior(t):
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))
    s = make_inputs(
        SD,
        3 * normal(8, 4, seed=2),
        t,
        normal(8, 4, seed=3),
        class_conditions(8, (1, 1, 1), (0.2, 0.5, 0.3)),
    )
    assert max_difference(VSD(1.0, critic=ExactCritic())(prior, s, Given(prior)), torch.zeros(8, 4)) == 0
    assert (
        max_difference(VSD(7.5, 7.5, critic=ExactCritic())(prior, s, Given(prior)), torch.zeros(8, 4)) == 0
    )


@pytest.mark.parametrize("t", TIMES)
def test_identity_07_vsd_vanishes_when_the_particles_are_the_data(t):
    """Prior and critic are two independent implementations of one distribution."""
    pictures = torch.randint(0, 256, (6, 3, 2, 2), generator=rng()).to(torch.uint8)
    prior = DataSet(pictures, chunk_size=4)
    x0 = pictures.double() / 127.5 - 1
    s = make_inputs(SD, x0, t, normal(6, 3, 2, 2), alone(6))
    s = replace(s, conditions=Conditions(prior.condition(["x"] * 6), prior.condition([""] * 6)))
    method = VSD(1.0, critic=ExactCritic())
    assert (
        max_difference(method(prior, s, method.init(prior, SetupContext(6, 1, 0, x0))), torch.zeros_like(x0))
        < 1e-10
    )


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_identity_07_vsd_with_untrained_adapters_is_classifier_guidance_times_s_minus_one(
    folder, scale
):
    prior = StableDiffusion(str(folder))
    x0, eps = (
        normal(3, 4, 8, 8, dtype=torch.float32),
        normal(3, 4, 8, 8, seed=1, dtype=torch.float32),
    )
    s = make_inputs(
        prior.schedule,
        x0,
        torch.tensor([0.1, 0.5, 0.9]),
        eps,
        prompt_conditions(prior, ["a red mug", "a blue chair", "two cats"]),
    )
    pos, null = prior(s.xt, s.t, s.conditions.pos, s.conditions.null)
    method = VSD(scale, critic=LoRACritic(4))
    with torch.no_grad():
        got = method(prior, s, method.init(prior, SetupContext(3, 3, 0, x0)))
        delta = pos.eps - null.eps
    assert float(delta.abs().max()) > 0.05  # the text matters, so the comparison means something
    assert max_difference(got, (scale - 1) * delta) < 2e-6 * (1 + scale)  # float32 network


def drift(method, state, prior, x: Tensor, t: float) -> Tensor:
    """Minus the direction averaged over the noise: antithetic pairs are exact for linear denoisers."""
    eps = normal(len(x), 1, seed=5)
    s = make_inputs(
        SD,
        torch.cat([x, x]),
        t,
        torch.cat([eps, -eps]),
        sided(2 * len(x)),
        torch.arange(len(x)).repeat(2),
    )
    return -method(prior, s, state).unflatten(0, (2, -1)).mean(0)


def integrate(velocity, x: Tensor, span: float, n: int) -> Tensor:
    """Runge-Kutta of fourth order."""
    h = span / n
    for _ in range(n):
        a = velocity(x)
        b = velocity(x + h / 2 * a)
        c = velocity(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + velocity(x + h * c))
    return x


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("name", ["sds", "vsd"])
def test_identity_08_speed_of_the_particles_variance(name, t):
    prior, x = pair(f64([-0.4]), f64([0.8]), 0.7, 0.7), 1.5 * normal(300, 1)
    method = SDS(4.0) if name == "sds" else VSD(4.0, critic=OfMoments())
    state = FREE if name == "sds" else Normal(SD)
    alpha, sigma = at(SD, float(SD.snap(f64([t]))))
    c, s = 0.49, float(x.var(correction=0))
    pull = 1 / (alpha**2 * c + sigma**2) - (0 if name == "sds" else 1 / (alpha**2 * s + sigma**2))
    speed = 2 * ((x - x.mean()) * drift(method, state, prior, x, t)).mean()
    assert abs(float(speed) + 2 * sigma * alpha * s * pull) < 1e-12


def test_identity_08_sds_particles_collapse_exponentially():
    null, pos, t = f64([-0.4]), f64([0.8]), 0.3
    prior, x = pair(null, pos, 0.7, 0.7), normal(100, 1)
    alpha, sigma = at(SD, t)
    k = sigma * alpha / (alpha**2 * 0.49 + sigma**2)
    end = integrate(lambda y: drift(SDS(4.0), FREE, prior, y, t), x, 4.0, 100)
    rest = null + 4 * (pos - null)
    assert max_difference(end, rest + (x - rest) * exp(-4 * k)) < 1e-8


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_identity_08_vsd_particles_keep_the_variance_of_the_prior(scale):
    null, pos, t = f64([-0.4]), f64([0.8]), 0.3
    prior, x = pair(null, pos, 0.7, 0.7), 0.2 * normal(100, 1)
    method, state = VSD(scale, critic=OfMoments()), Normal(SD)
    end = integrate(lambda y: drift(method, state, prior, y, t), x, 60.0, 120)
    assert abs(float(end.mean()) - float(null + scale * (pos - null))) < 1e-7
    assert abs(float(end.var(correction=0)) - 0.49) < 1e-7


class Worded:
    """An exact prior that answers in some parametrisation and is read again."""

    def __init__(self, prior, kind):
        self.prior, self.kind, self.schedule = prior, kind, prior.schedule

    def __call__(self, xt, t, *conditions):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, s = alpha[:, None], sigma[:, None]
        out = []
        for said in self.prior(xt, t, *conditions):
            words = {
                "eps": said.eps,
                "x0": said.x0,
                "v": a * said.eps - s * said.x0,
                "flow": said.eps - said.x0,
            }
            out.append(Prediction.from_output(self.kind, words[self.kind], xt, alpha, sigma))
        return out


@pytest.mark.parametrize(("schedule", "kind"), [
    *[(s, k) for s in (SD, CosineSchedule()) for k in ("eps", "x0", "v")], *[(RectifiedFlowSchedule(), k) for k in ("eps", "x0", "flow")],
])  # fmt: skip
@pytest.mark.parametrize("t", TIMES)
def test_identity_11_every_parametrisation_gives_the_same_gradient(schedule, kind, t):
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)
    s = make_inputs(
        schedule,
        normal(5, 4, seed=2),
        t,
        normal(5, 4, seed=3),
        class_conditions(5, (1, 1, 1), (0.1, 0.1, 0.8)),
    )
    assert max_difference(SDS(7.5)(Worded(prior, kind), s, FREE), SDS(7.5)(prior, s, FREE)) < 1e-11


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", TIMES)
def test_identity_11_weights_map_one_residual_to_another(schedule, t):
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)
    x0, eps = normal(5, 4, seed=2), normal(5, 4, seed=3)
    s = make_inputs(schedule, x0, t, eps, class_conditions(5, (1, 1, 1), (0.1, 0.1, 0.8)))
    direction = SDS(7.5)(prior, s, FREE)
    said = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5)
    alpha, sigma = schedule.alpha(s.t), schedule.sigma(s.t)
    assert max_difference(expand(LambdaWeight()(schedule, s.t), x0) * direction, x0 - said.x0) < 1e-10
    kind = "flow" if isinstance(schedule, RectifiedFlowSchedule) else "v"
    gap = said.to_output(kind, alpha, sigma) - Prediction(x0, eps).to_output(kind, alpha, sigma)
    assert max_difference(expand(1 / alpha, x0) * direction, gap) < 1e-10


def tetrahedron(schedule=SD) -> DataSet:
    corners = torch.tensor(
        [[10, 20, 30], [240, 30, 60], [40, 230, 90], [120, 110, 250]], dtype=torch.uint8
    )
    return DataSet(corners.reshape(4, 3, 1, 1), schedule=schedule)


def corners_of(data: DataSet) -> Tensor:
    return data.images.flatten(1).double() / 127.5 - 1


@pytest.mark.parametrize("t", TIMES)
def test_identity_23_predicted_x0_lies_in_the_convex_hull_of_the_data(t):
    data = tetrahedron()
    xt = 4 * normal(50, 3, 1, 1)
    said = data(xt, torch.full((50,), t, dtype=torch.float64), data.condition([""] * 50))[
        0
    ].x0.flatten(1)
    system = torch.cat([corners_of(data).T, torch.ones(1, 4).double()])
    share = torch.linalg.solve(system, torch.cat([said, torch.ones(50, 1).double()], 1).T)
    assert float(share.min()) > -1e-12


def test_identity_23_limits_of_little_and_of_all_noise():
    data = tetrahedron(CosineSchedule())
    xt = normal(20, 3, 1, 1)
    conditions = data.condition([""] * 20)
    near = data(xt, torch.full((20,), 1e-4, dtype=torch.float64), conditions)[0].x0.flatten(1)
    index = torch.cdist(xt.flatten(1), corners_of(data)).argmin(1)
    assert max_difference(near, corners_of(data)[index]) < 1e-12
    far = data(xt, torch.ones(20).double(), conditions)[0].x0.flatten(1)
    assert max_difference(far, corners_of(data).mean(0).expand(20, 3)) < 1e-8  # alpha is floored at 1e-9
    ended = tetrahedron(DiscreteSchedule((0.9, 0.5, 0.0)))
    assert (
        max_difference(
            ended(xt, torch.ones(20).double(), conditions)[0].x0.flatten(1),
            corners_of(data).mean(0).expand(20, 3),
        )
        < 1e-8
    )


def test_identity_23_stable_diffusions_schedule_never_reaches_the_mean():
    data = tetrahedron()
    far = data(normal(20, 3, 1, 1), torch.ones(20).double(), data.condition([""] * 20))[
        0
    ].x0.flatten(1)
    assert float((far - corners_of(data).mean(0)).norm(dim=1).mean()) > 0.05


def test_identity_23_data_points_are_where_sds_rests_as_the_time_falls():
    data = tetrahedron()
    x0, eps = corners_of(data).reshape(4, 3, 1, 1), normal(4, 3, 1, 1)
    conditions = Conditions(data.condition([""] * 4), data.condition([""] * 4))
    assert (
        max_difference(SDS(1.0)(data, make_inputs(SD, x0, 0.02, eps, conditions), FREE), torch.zeros_like(x0))
        < 1e-13
    )
    off = 0.05 * normal(4, 3, 1, 1, seed=2)
    s = make_inputs(SD, x0 + off, 0.02, eps, conditions)
    alpha, sigma = at(SD, 0.02)
    assert max_difference(SDS(1.0)(data, s, FREE), alpha / sigma * off) < 1e-12  # descending it leads back


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_identity_24_ddim_approaches_the_exact_flow_at_first_order(schedule):
    mean, std = f64([0.4, -0.3]), 0.6
    prior, start = gaussian(mean, std, schedule), normal(20, 2)
    alpha, sigma = at(schedule, 1.0)
    exact = mean + std / sqrt(alpha**2 * std**2 + sigma**2) * (start - alpha * mean)
    gaps = [max_difference(sample(prior, alone(20), start, n, 1.0), exact) for n in (50, 100, 200, 400)]
    # a table from betas has sigma ~ sqrt(t) near the data, which turns 1/n into log(n)/n
    low = 1.8 if isinstance(schedule, DiscreteSchedule) else 1.95
    assert gaps[0] < 0.1
    assert all(low < a / b < 2.1 for a, b in pairwise(gaps)), gaps


def test_identity_24_each_ddim_step_on_a_gaussian_is_the_closed_form_step():
    mean, std = f64([0.4, -0.3]), 0.6
    start = normal(20, 2)
    for schedule in SCHEDULES:
        times = [*schedule.sampling_times(10).tolist(), None]
        apart, alpha, sigma = start - at(schedule, times[0])[0] * mean, *at(schedule, times[0])
        for later in times[1:]:
            b, r = at(schedule, later) if later is not None else (1.0, 0.0)
            apart = apart * (b * alpha * std**2 + r * sigma) / (alpha**2 * std**2 + sigma**2)
            alpha, sigma = b, r
        assert (
            max_difference(sample(gaussian(mean, std, schedule), alone(20), start, 10, 1.0), mean + apart)
            < 1e-12
        )


def test_identity_25_four_idioms_give_one_gradient():
    theta, g, view = normal(3, 4), normal(3, 4, seed=1), torch.arange(3)

    def gradient(use) -> Tensor:
        x = theta.clone().requires_grad_()
        use(x.tanh())
        return x.grad

    expected = g * (1 - theta.tanh() ** 2)
    idioms = {
        "surrogate": lambda x: surrogate(x, g, view).backward(),
        "target": lambda x: (0.5 * (x - (x - g).detach()).square().sum()).backward(),
        "injected": lambda x: x.backward(g),
        "product": lambda x: (x * g).sum().backward(),
    }
    for name, use in idioms.items():
        assert max_difference(gradient(use), expected) < 1e-14, name
    mean = gradient(lambda x: nn.functional.mse_loss(x, (x - g).detach()).backward())
    assert max_difference(mean, expected * 2 / 12) < 1e-14  # a mean divides by the number of elements


def test_identity_25_several_views_of_a_particle_are_averaged():
    x, g = normal(5, 2).requires_grad_(), normal(5, 2, seed=1)
    surrogate(x, g, torch.tensor([0, 0, 1, 0, 2])).backward()
    assert max_difference(x.grad, g * f64([1 / 3, 1 / 3, 1, 1 / 3, 1])[:, None]) < 1e-15


def test_identity_25_nothing_but_the_particles_gets_a_gradient_from_their_loss(prior):
    experiment = Experiment(
        ("a red mug",),
        method=VSD(7.5, critic=LoRACritic(4, CriticTraining(steps=0))),
        particles=2,
        steps=1,
    )
    run = Run(experiment, prior)
    run.optimizer.zero_grad = lambda set_to_none: None
    run.advance()
    assert all(p.grad is not None for p in run.representation.parameters())
    assert all(p.grad is None for p in prior.unet.parameters())
    assert all(p.grad is None for p in prior.vae.parameters())
    assert all(p.grad is None for p in run.state.adapters.parameters())


def test_identity_25_the_critics_loss_gives_the_particles_nothing(prior):
    experiment = Experiment(
        ("a red mug",), method=VSD(7.5, critic=LoRACritic(4)), particles=2, steps=1
    )
    run = Run(experiment, prior)
    before = [p.clone() for p in run.state.adapters.parameters()]
    run.advance()  # the last thing it does is the critic's step; the particles' gradients are gone by then
    assert all(p.grad is None for p in run.representation.parameters())
    assert all(p.grad is None for p in prior.unet.parameters())
    assert any(
        not torch.equal(a, b) for a, b in zip(before, run.state.adapters.parameters(), strict=True)
    )


@dataclass(frozen=True)
class Times(Weight):
    factor: float = 1.0

    def __call__(self, schedule, t):
        return self.factor * schedule.sigma(t) ** 2


def walk(optimizer, factor: float, eps_scale: float = 1.0) -> Tensor:
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))
    experiment = Experiment(("x",), method=SDS(1.0), representation=Latents(0.03), optimizer=optimizer, weight=Times(factor),
                            particles=3, steps=20)  # fmt: skip
    run = Run(experiment, prior)
    while run.step < 20:
        run.advance()
    return torch.stack(list(run.representation.particles)).detach()


def test_identity_26_adam_cannot_tell_a_constant_weight_and_plain_descent_can():
    assert torch.equal(
        walk(Adam(eps=0.0), 1.0), walk(Adam(eps=0.0), 1024.0)
    )  # a power of two: no rounding differs
    assert max_difference(walk(Adam(), 1.0), walk(Adam(), 1000.0)) < 1e-5
    assert max_difference(walk(SGD(), 1.0), walk(SGD(), 2.0)) > 1e-2


@pytest.mark.parametrize("omega", [0.0, 1.0, 6.5, 99.0])
def test_identity_27_guidance_counts_as_diffusers_not_as_the_paper(omega):
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))
    s = make_inputs(
        SD, normal(5, 4, seed=2), 0.4, normal(5, 4, seed=3), class_conditions(5, (1, 1, 1), (0.1, 0.1, 0.8))
    )
    pos, null = prior(s.xt, s.t, s.conditions.pos, s.conditions.null)
    paper = pos.eps + omega * (pos.eps - null.eps)
    assert max_difference(
        guided_prediction(prior, s.xt, s.t, s.conditions, omega + 1).eps, paper
    ) < 1e-13 * (1 + omega)
    assert max_difference(SDS(omega + 1)(prior, s, FREE), paper - s.eps) < 1e-13 * (1 + omega)


def test_identity_27_scale_zero_is_the_null_and_one_the_prompt():
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))
    s = make_inputs(
        SD, normal(5, 4, seed=2), 0.4, normal(5, 4, seed=3), class_conditions(5, (1, 1, 1), (0.1, 0.1, 0.8))
    )
    pos, null = prior(s.xt, s.t, s.conditions.pos, s.conditions.null)
    assert torch.equal(guided_prediction(prior, s.xt, s.t, s.conditions, 0.0).eps, null.eps)
    assert torch.equal(guided_prediction(prior, s.xt, s.t, s.conditions, 1.0).eps, pos.eps)


def rows_of(s, keep):
    return replace(
        s,
        x0=s.x0[keep],
        t=s.t[keep],
        eps=s.eps[keep],
        conditions=s.conditions[keep],
        particle=s.particle[keep],
    )


def test_identity_30_a_rows_direction_does_not_depend_on_its_batch():
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))
    s = make_inputs(
        SD,
        normal(6, 4, seed=2),
        torch.linspace(0.05, 0.95, 6).double(),
        normal(6, 4, seed=3),
        class_conditions(6, (1, 1, 1), (0.1, 0.1, 0.8)),
    )
    method = VSD(7.5, critic=ExactCritic())
    singles = method.init(
        prior, SetupContext(6, 6, 0, torch.zeros_like(s.x0))
    )  # every prompt has one particle
    for one in (lambda q: SDS(7.5)(prior, q, FREE), lambda q: method(prior, q, singles)):
        whole = one(s)
        assert (
            max_difference(torch.cat([one(rows_of(s, torch.tensor([i]))) for i in range(6)]), whole) < 1e-13
        )


def test_identity_30_a_rows_direction_does_not_depend_on_its_batch_in_a_network(prior):
    x0, eps = (
        normal(4, 4, 8, 8, dtype=torch.float32),
        normal(4, 4, 8, 8, seed=1, dtype=torch.float32),
    )
    s = make_inputs(
        prior.schedule,
        x0,
        torch.tensor([0.1, 0.4, 0.6, 0.9]),
        eps,
        prompt_conditions(prior, ["a red mug", "a blue chair", "two cats", "x"]),
    )
    with torch.no_grad():
        whole = SDS(7.5)(prior, s, FREE)
        apart = torch.cat([SDS(7.5)(prior, rows_of(s, torch.tensor([i])), FREE) for i in range(4)])
    assert max_difference(whole, apart) < 2e-5


def paths(prior, prompts, particles, n=12) -> Tensor:
    experiment = Experiment(prompts, method=SDS(3.0), representation=Latents(0.05), noise=FixedPerParticleNoise(), timesteps=FixedTimesteps(0.4),
                            particles=particles, steps=n)  # fmt: skip
    run = Run(experiment, prior)
    with torch.no_grad():
        for i, p in enumerate(run.representation.particles):
            p.copy_(normal(*p.shape, seed=i, dtype=torch.float32))
    out = []
    while run.step < n:
        run.advance()
        out.append(torch.stack(list(run.representation.particles)).detach().clone())
    return torch.stack(out)


def test_identity_30_a_particles_path_does_not_depend_on_how_many_there_are():
    prior = GaussianMixture(
        normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=("mug", "chair", "cat")
    )
    many = paths(prior, ("mug",), 4)
    assert torch.equal(paths(prior, ("mug",), 1), many[:, :1])
    assert torch.equal(paths(prior, ("mug", "chair"), 4)[:, :4], many)


@dataclass(frozen=True)
class Straight(StatelessMethod):
    """Descends x0 towards zero: what a particle receives is known."""

    def __call__(self, prior, sample, state):
        return sample.x0.detach()


def test_identity_30_plain_descent_moves_a_particle_by_its_own_direction_alone():
    for n in (1, 7):
        run = Run(Experiment(("x",), method=Straight(), representation=Latents(0.5), optimizer=SGD(), weight=UniformWeight(),
        particles=n, steps=1),
                  GaussianMixture(normal(1, 4), torch.ones(1)))  # fmt: skip
        before = torch.stack(list(run.representation.particles)).detach().clone()
        run.advance()
        assert torch.equal(torch.stack(list(run.representation.particles)), before / 2)


@pytest.mark.parametrize("method", [SDS(7.5), VSD(7.5, critic=ExactCritic())], ids=["sds", "vsd"])
def test_identity_31_a_seed_decides_everything_and_the_global_generator_nothing(method):
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]))
    experiment = Experiment(("x",), method=method, particles=4, batch_size=2, steps=8, seed=5)

    def end(e, noise):
        torch.manual_seed(noise)
        return torch.stack([s.gradient for s in steps(e, prior)])

    state = torch.get_rng_state()
    first = end(experiment, 1)
    assert torch.equal(first, end(experiment, 2))
    assert not torch.equal(first, end(replace(experiment, seed=6), 1))
    torch.set_rng_state(state)
    list(steps(experiment, prior))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("t", TIMES)
def test_identity_31_single_precision_is_near_double(t):
    data = DataSet(torch.randint(0, 256, (30, 3, 8, 8), generator=rng()).to(torch.uint8))
    x0, eps = 0.3 * normal(10, 3, 8, 8), normal(10, 3, 8, 8, seed=1)
    conditions = Conditions(data.condition([""] * 10), data.condition([""] * 10))
    double = SDS(1.0)(data, make_inputs(SD, x0, t, eps, conditions), FREE)
    single = SDS(1.0)(data, make_inputs(SD, x0.float(), t, eps.float(), conditions), FREE)
    assert single.dtype == torch.float32
    assert max_difference(single, double) / float(double.abs().max()) < 1e-4


@pytest.mark.parametrize("t", TIMES)
def test_identity_31_half_precision_bound_on_a_network(folder, t):
    texts = ["a red mug", "a blue chair"]
    x0, eps = (
        normal(2, 4, 8, 8, dtype=torch.float32),
        normal(2, 4, 8, 8, seed=1, dtype=torch.float32),
    )
    directions = []
    for dtype in (torch.float32, torch.bfloat16):
        prior = StableDiffusion(str(folder), dtype=dtype)
        with torch.no_grad():
            directions.append(
                SDS(1.0)(prior, make_inputs(prior.schedule, x0, t, eps, prompt_conditions(prior, texts)), FREE)
            )
    full, half = directions
    assert half.dtype == torch.float32
    assert 0 < float((half - full).norm() / full.norm()) < 0.05


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", TIMES)
def test_identity_32_the_noise_is_minus_sigma_times_the_score(schedule, t):
    prior = GaussianMixture(
        normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), torch.tensor([1.0, 2.0, 5.0]), schedule=schedule
    )
    z = (2 * normal(9, 4, seed=2)).requires_grad_()
    time = schedule.snap(torch.full((9,), t, dtype=torch.float64))
    for conditions in (
        class_conditions(9, (1, 1, 1), (1, 1, 1)).pos,
        class_conditions(9, (1, 1, 1), (0.3, 0.0, 0.7)).pos,
    ):
        (score,) = torch.autograd.grad(prior.log_density(z, time, conditions).sum(), z)
        assert (
            max_difference(
                prior(z.detach(), time, conditions)[0].eps, -schedule.sigma(time)[:, None] * score
            )
            < 1e-12
        )


@pytest.mark.parametrize("t", TIMES)
def test_identity_32_the_density_integrates_to_one_and_is_the_mixture(t):
    prior = GaussianMixture(**MIX)
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    time = SD.snap(torch.full((len(z),), t).double())
    for shares in ((1, 1, 1), (0.5, 0.0, 2.0)):
        p = prior.log_density(z[:, None], time, class_conditions(len(z), shares, shares).pos).exp()
        assert abs(float(torch.trapezoid(p, z)) - 1) < 1e-11
    p = prior.log_density(z[:, None], time, class_conditions(len(z), (1, 1, 1), (1, 1, 1)).pos).exp()
    assert max_difference(p, density(z, *at(SD, float(time[0])))) < 1e-13


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("method", [SDS(7.5), VSD(7.5, critic=ExactCritic())], ids=["sds", "vsd"])
def test_identity_33_turning_and_moving_the_world_turns_the_gradient(method, t):
    means, x0, eps = normal(3, 4, seed=1), normal(5, 4, seed=2), normal(5, 4, seed=3)
    turn, move = torch.linalg.qr(normal(4, 4, seed=4)).Q, normal(4, seed=5)
    conditions = class_conditions(5, (1, 1, 1), (0.1, 0.1, 0.8))

    def direction(m, x, e):
        prior = GaussianMixture(m, f64([0.3, 0.6, 1.0]))
        return method(
            prior, make_inputs(SD, x, t, e, conditions), method.init(prior, SetupContext(5, 1, 0, x))
        )

    here = direction(means, x0, eps)
    assert max_difference(direction(means @ turn, x0 @ turn, eps @ turn), here @ turn) < 1e-11
    assert max_difference(direction(means + move, x0 + move, eps), here) < 1e-11
