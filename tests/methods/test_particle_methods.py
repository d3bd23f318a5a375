"""SVGD, repulsive SD and RewardSDS, with their kernel, features and rewards."""

from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np
import pytest
import torch
from allowed_times import times_for
from tiny_pipeline import (
    class_conditions,
    count_calls,
    f64,
    make_inputs,
    max_difference,
    normal,
    prompt_conditions,
    rng,
    row_rng,
)
from torch import Tensor

from limbeck.config.discovery import choices, find
from limbeck.diffusion.guidance import apply_guidance, denoise_multistep, guided_prediction
from limbeck.diffusion.schedule import RectifiedFlowSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.features.base import Features
from limbeck.distillation.features.evaluator import EvaluatorFeatures
from limbeck.distillation.features.identity import IdentityFeatures
from limbeck.distillation.features.pooled import PooledFeatures
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.kernels import log_kernel, repulsion
from limbeck.distillation.rewards.agreement import AgreementReward
from limbeck.distillation.rewards.auto import AutoReward
from limbeck.distillation.rewards.base import Reward
from limbeck.distillation.rewards.density import DensityReward
from limbeck.distillation.rewards.image_statistics import ContrastReward, SaturationReward
from limbeck.distillation.state import Stateless
from limbeck.methods.repulsive import Repulsive
from limbeck.methods.reward_sds import RewardSDS
from limbeck.methods.sds import SDS
from limbeck.methods.svgd import SVGD
from limbeck.priors.exact import DataSet, GaussianMixture, colored_shapes
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run
from limbeck.world.pretrained import shared_evaluator
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import ATTRIBUTES, full_captions, random_scenes, render_scenes

SD = stable_diffusion_schedule()
NO_STATE = Stateless()
SHARES = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))
TIMES = [0.03, 0.5, 0.97]
every_time = pytest.mark.parametrize("t", TIMES)


def mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)


def make_rows(n: int, schedule=SD, t: Tensor | float = 0.5):
    return make_inputs(
        schedule, normal(n, 4, seed=2), t, normal(n, 4, seed=3), class_conditions(n, *SHARES)
    )


def direction_of(method, prior, s, particles: int, prompts: int = 1):
    setup = SetupContext(particles, prompts, 0, torch.zeros(particles, 4))
    return method(prior, s, method.init(prior, setup))


# Kernel


def log_k_of(f: Tensor, h: Tensor) -> Tensor:
    """log k(f_i, f_j) at a given width."""
    return -(f[:, None] - f[None]).square().sum(-1) / h


def test_the_kernel_of_more_particles_than_quantile_takes():
    """torch.quantile refuses more than 2^24 values, the pairs of 5,794 particles."""
    f = torch.arange(5_800.0)[:, None] / 5_800
    _, h = log_kernel(f)
    # differences d of a uniform grid have the density 2 (1 - d): the median is 1 - sqrt(1/2)
    expected = (1 - sqrt(0.5)) ** 2 / log(5_800)
    assert float(h) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_kernel_width_is_the_median_squared_distance_over_log_n(n):
    f = normal(n, 5)
    log_k, h = log_kernel(f)
    pairs = sorted(float((f[i] - f[j]).square().sum()) for i in range(n) for j in range(i))
    expected = 1.0
    if n > 1:
        expected = 0.5 * (pairs[(len(pairs) - 1) // 2] + pairs[len(pairs) // 2]) / log(n)
    assert abs(float(h) - expected) < 1e-12
    assert max_difference(log_k, log_k_of(f, f64([expected]))) < 1e-12


@pytest.mark.parametrize("n", [2, 3, 7])
def test_repulsion_is_the_gradient_of_the_kernel(n):
    f = normal(n, 5).requires_grad_()
    log_k, h = log_kernel(f.detach())
    # the sum over i and j has each pair twice
    expected = torch.autograd.grad(log_k_of(f, h).exp().sum() / 2, f)[0]
    assert max_difference(repulsion(log_k.exp(), f.detach(), h), expected) < 1e-12


def test_kernel_of_coinciding_particles():
    f = normal(1, 5).repeat(4, 1)
    log_k, h = log_kernel(f)
    assert max_difference(log_k, torch.zeros(4, 4)) == 0 and float(h) == 1
    assert max_difference(repulsion(log_k.exp(), f, h), torch.zeros(4, 5)) < 1e-14
    mostly = torch.cat([f, f[:1] + 2])  # 6 of 10 pairs coincide
    log_k, h = log_kernel(mostly)
    assert float(h) == 1 and bool(repulsion(log_k.exp(), mostly, h).isfinite().all())


# SVGD


@every_time
@pytest.mark.parametrize("space", ["x0", "xt"])
def test_svgd_of_one_particle_is_sds(t, space):
    """On five prompts of one particle."""
    prior, s = mixture(), make_rows(5, t=t)
    svgd = direction_of(SVGD(7.5, space), prior, s, 5, 5)
    assert max_difference(svgd, SDS(7.5)(prior, s, NO_STATE)) < 1e-12


@every_time
@pytest.mark.parametrize("space", ["x0", "xt"])
def test_svgd_of_two_particles_in_closed_form(t, space):
    """The median is the only distance: k = 1/2, - grad k = log 2 (x_j - x_i) / |x_j - x_i|^2."""
    prior, s = mixture(), make_rows(2, t=t)
    d, x = SDS(7.5)(prior, s, NO_STATE), s.x0 if space == "x0" else s.xt
    difference = x[1] - x[0]
    push = log(2) * difference / difference.square().sum()
    expected = torch.stack([(d[0] + d[1] / 2 + push) / 2, (d[1] + d[0] / 2 - push) / 2])
    assert max_difference(direction_of(SVGD(7.5, space), prior, s, 2), expected) < 1e-12


def test_svgd_is_the_sum_of_the_paper():
    prior, s, n = mixture(), make_rows(6), 6
    d = SDS(7.5)(prior, s, NO_STATE)
    h = log_kernel(s.x0)[1]
    expected = torch.zeros_like(d)
    for i in range(n):
        for j in range(n):
            xj = s.x0[j].clone().requires_grad_()
            k = (-(xj - s.x0[i]).square().sum() / h).exp()
            expected[i] += (k.detach() * d[j] - torch.autograd.grad(k, xj)[0]) / n
    assert max_difference(direction_of(SVGD(7.5), prior, s, n), expected) < 1e-12


def test_svgd_keeps_the_variance_that_sds_loses():
    prior = GaussianMixture(torch.zeros(1, 2).double(), f64([0.8]), labels=("blob",))

    def final_std(method) -> float:
        options = {"representation": Latents(0.1), "particles": 8, "steps": 60}
        run = Run(Experiment(("blob",), method=method, **options), prior)
        while run.step < 60:
            run.advance()
        return float(torch.stack(list(run.representation.particles)).detach().std(0).mean())

    assert final_std(SVGD(1.0)) > 2 * final_std(SDS(1.0))


# Repulsion


@every_time
@pytest.mark.parametrize("kind", ["log", "sum"])
def test_repulsion_of_one_particle_or_of_no_strength_is_sds(t, kind):
    prior, s = mixture(), make_rows(5, t=t)
    sds = SDS(7.5)(prior, s, NO_STATE)
    assert max_difference(direction_of(Repulsive(7.5, 40.0, kind), prior, s, 5, 5), sds) < 1e-12
    assert max_difference(direction_of(Repulsive(7.5, 0.0, kind), prior, s, 5), sds) < 1e-12


@every_time
@pytest.mark.parametrize("schedule", [SD, RectifiedFlowSchedule()], ids=lambda s: type(s).__name__)
def test_repulsion_of_two_particles_in_closed_form(t, schedule):
    """grad log k = -2 log 2 (x_i - x_j) / |x_i - x_j|^2, and grad k is half of it."""
    prior, s = mixture(schedule), make_rows(2, schedule, t)
    difference = s.x0[0] - s.x0[1]
    slope = -2 * log(2) * difference / difference.square().sum()
    sds, sigma = SDS(7.5)(prior, s, NO_STATE), schedule.sigma(s.t)[:, None]
    push = 3 * sigma * torch.stack([slope, -slope])
    by_log = direction_of(Repulsive(7.5, 3.0, "log"), prior, s, 2)
    assert max_difference(by_log, sds + push) < 1e-11
    by_sum = direction_of(Repulsive(7.5, 3.0, "sum"), prior, s, 2)
    assert max_difference(by_sum, sds + push / 2) < 1e-11


@dataclass(frozen=True)
class NonlinearFeatures(Features):
    """Nonlinear features of another dimension."""

    def __call__(self, prior, x0):
        return torch.cat([x0.sin(), x0.prod(1, keepdim=True)], 1)


@pytest.mark.parametrize(
    "features", [IdentityFeatures(), NonlinearFeatures()], ids=lambda f: type(f).__name__
)
@pytest.mark.parametrize("kind", ["log", "sum"])
def test_repulsion_is_the_gradient_of_its_energy_through_the_features(kind, features):
    prior, s = mixture(), make_rows(6)
    x0 = s.x0.clone().requires_grad_()
    f = features(prior, x0)
    h = log_kernel(f.detach())[1]
    expected = torch.zeros_like(s.x0)
    for i in range(6):  # E_i, with the other particles fixed
        other = f.detach()[torch.arange(6) != i]
        k = -(f[i] - other).square().sum(1) / h
        e = k.logsumexp(0) if kind == "log" else k.exp().sum()
        expected[i] = torch.autograd.grad(e, x0, retain_graph=True)[0][i]
    direction = direction_of(Repulsive(7.5, 2.0, kind, features), prior, s, 6)
    push = direction - SDS(7.5)(prior, s, NO_STATE)
    assert max_difference(push, 2 * expand(SD.sigma(s.t), expected) * expected) < 1e-12


def test_log_repulsion_acts_on_distant_particles():
    """k of an outlier underflows; its logarithm does not."""
    prior, s = mixture(), make_rows(5)
    s = replace(s, x0=torch.cat([0.01 * s.x0[:4], s.x0[4:] + 1e3]))
    sds = SDS(7.5)(prior, s, NO_STATE)
    by_log = (direction_of(Repulsive(7.5, 1.0, "log"), prior, s, 5) - sds)[4]
    assert bool(by_log.isfinite().all()) and float(by_log.norm()) > 1
    by_sum = (direction_of(Repulsive(7.5, 1.0, "sum"), prior, s, 5) - sds)[4]
    assert float(by_sum.norm()) < 1e-12


@pytest.mark.parametrize(
    "features", [PooledFeatures(2), EvaluatorFeatures()], ids=lambda f: type(f).__name__
)
def test_image_features_are_differentiable(features):
    prior = colored_shapes(8)
    x0 = (0.3 * normal(3, 3, 8, 8, dtype=torch.float32)).requires_grad_()
    f = features(prior, x0)
    assert f.ndim == 2 and len(f) == 3
    grads = torch.autograd.grad(f[1].square().sum(), x0)[0]
    # the features of a row depend on this row only
    assert float(grads[1].abs().max()) > 0 and float(grads[0].abs().max()) == 0
    if isinstance(features, PooledFeatures):
        result = f[0].detach().view(3, 2, 2)
        expected = x0.detach()[0].view(3, 2, 4, 2, 4).mean((2, 4))
        assert max_difference(result, expected) < 1e-6
    method = Repulsive(5.0, features=features)
    run = Run(Experiment(("red disc",), method=method, particles=3, steps=2), prior)
    assert all(bool(run.advance().gradient.isfinite().all()) for _ in range(2))


@pytest.mark.parametrize(
    "features", [PooledFeatures(), EvaluatorFeatures()], ids=lambda f: type(f).__name__
)
def test_image_features_reject_vectors(features):
    with pytest.raises(ValueError, match=r"not .*4.*: use --method.features identity"):
        direction_of(Repulsive(features=features), mixture(), make_rows(3), 3)
    with pytest.raises(ValueError, match="grid_size must be at least 1"):
        PooledFeatures(0)


# Interacting methods

INTERACTING = [
    SVGD(7.5),
    SVGD(7.5, "xt"),
    Repulsive(7.5),
    Repulsive(7.5, energy="sum"),
    Repulsive(7.5, features=NonlinearFeatures()),
]
ids = ["svgd", "svgd-xt", "log", "sum", "nonlinear"]


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
def test_interacting_methods_are_permutation_equivariant(method):
    prior, s = mixture(), make_rows(6, t=f64([0.1, 0.3, 0.5, 0.6, 0.8, 0.9]))
    whole = direction_of(method, prior, s, 6)
    order = torch.randperm(6, generator=rng())
    permuted = replace(s.select(order), particle=torch.arange(6))
    assert max_difference(direction_of(method, prior, permuted, 6), whole[order]) < 1e-11


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
def test_identity_30_direction_depends_only_on_rows_of_the_same_prompt(method):
    prior, s = mixture(), make_rows(6, t=f64([0.1, 0.3, 0.5, 0.6, 0.8, 0.9]))

    def direction(rows):
        return direction_of(method, prior, s.select(torch.tensor(rows)), 6, 2)

    whole = direction_of(method, prior, s, 6, 2)  # particles 0 1 2 and 3 4 5
    for rows in ([0, 1, 2], [3, 4, 5]):
        assert max_difference(direction(rows), whole[rows]) < 1e-12
    second, first = direction([4, 5]), direction([0, 2])
    expected = torch.stack([second[0], first[0], second[1], first[1]])
    assert max_difference(direction([4, 0, 5, 2]), expected) < 1e-12
    alone = direction([0])
    assert max_difference(alone, whole[:1]) > 1e-3  # it depends on rows of its own prompt
    sds = SDS(7.5)(prior, s.select(torch.tensor([0])), NO_STATE)
    assert max_difference(alone, sds) < 1e-12


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
@pytest.mark.parametrize("n", [1, 6])
def test_interacting_methods_pass_as_sds(method, n):
    prior, s = mixture(), make_rows(n)
    assert count_calls(prior, lambda: direction_of(method, prior, s, n))[1] == (1, 2 * n)


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
def test_identity_33_direction_is_equivariant(method):
    if method == Repulsive(7.5, features=NonlinearFeatures()):
        return  # nonlinear features are not equivariant
    rotation, shift, s = torch.linalg.qr(normal(4, 4, seed=4)).Q, normal(4, seed=5), make_rows(5)

    means = normal(3, 4, seed=1)

    def direction(m, x, e):
        prior = GaussianMixture(m, f64([0.3, 0.6, 1.0]))
        return direction_of(method, prior, replace(s, x0=x, eps=e), 5)

    reference = direction(means, s.x0, s.eps)
    rotated = direction(means @ rotation, s.x0 @ rotation, s.eps @ rotation)
    assert max_difference(rotated, reference @ rotation) < 1e-10
    assert max_difference(direction(means + shift, s.x0 + shift, s.eps), reference) < 1e-10


@pytest.mark.parametrize("method", [*INTERACTING[:4], RewardSDS(7.5, 4)], ids=[*ids[:4], "reward"])
def test_identity_31_resumed_run_equals_uninterrupted_one(method):
    prior, prompts = colored_shapes(8), ("red disc", "blue ring")
    experiment = Experiment(
        prompts,
        method=method,
        particles=3,
        batch_size=4,
        timesteps=times_for(method),
        steps=6,
    )
    whole, again = Run(experiment, prior), Run(experiment, prior)
    for _ in range(3):
        whole.advance()
    torch.manual_seed(5)
    again.load({k: v.detach().clone() for k, v in whole.tensors().items()}, 3)
    for _ in range(3):
        a, b = whole.advance(), again.advance()
        assert torch.equal(a.gradient, b.gradient) and bool(a.gradient.isfinite().all())


# RewardSDS


class FirstValueReward(Reward):
    """The first value of x0."""

    def build(self, prior, setup):
        return lambda x0, conditions, particle: x0.flatten(1)[:, 0]


def draw_noises(s, n: int) -> Tensor:
    """Noises of RewardSDS ``[N, B, ...]``: the drawn one and others from the step's generator."""
    fresh = row_rng(len(s.x0), 99).normal("candidates", n - 1, *s.x0.shape[1:]).to(s.eps)
    return torch.cat([s.eps[None], fresh.transpose(0, 1)])


@pytest.mark.parametrize("scheme", ["best", "softmax"])
@every_time
def test_reward_sds_with_one_noise_is_sds(scheme, t):
    prior, s = mixture(), make_rows(5, t=t)
    method = RewardSDS(7.5, 1, scheme, reward_model=FirstValueReward())
    direction = direction_of(method, prior, s, 5)
    assert max_difference(direction, SDS(7.5)(prior, s, NO_STATE)) < 1e-12


RANK_WEIGHTS = {
    "minmax": [(0, 0.45), (1, 0.45), (-1, -0.05), (-2, -0.05)],
    "bestworst": [(0, 0.9), (-1, -0.1)],
    "best": [(0, 1.0)],
}


def expected_weights(scheme: str, rewards: Tensor) -> Tensor:
    if scheme == "softmax":
        return rewards.exp() / rewards.exp().sum()
    values = rewards.tolist()
    ranking = sorted(range(len(values)), key=lambda i: -values[i])
    weights = torch.zeros(len(values)).double()
    for rank, weight in RANK_WEIGHTS[scheme]:
        weights[ranking[rank]] += weight
    return weights


@pytest.mark.parametrize("scheme", ["minmax", "bestworst", "best", "softmax"])
@pytest.mark.parametrize(
    ("guidance", "reward_guidance"), [(7.5, 7.5), (100.0, 7.5), (1.0, 1.0), (1.0, 7.5)]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_reward_sds_is_the_weighted_sum_over_noises(scheme, guidance, reward_guidance, steps):
    prior, s, n = mixture(), make_rows(3, t=f64([0.2, 0.5, 0.9])), 5
    method = RewardSDS(guidance, n, scheme, steps, reward_guidance, FirstValueReward())
    direction, passes = count_calls(prior, lambda: direction_of(method, prior, s, 3))
    first = 1 if guidance == reward_guidance == 1 else 2
    later = 1 if reward_guidance == 1 else 2
    assert passes == (steps, 3 * n * (first + (steps - 1) * later))
    expected, eps = torch.zeros_like(direction), draw_noises(s, n)
    for b in range(3):
        rows, sds, rewards = torch.tensor([b]), [], []
        for i in range(n):
            one = replace(s.select(rows), eps=eps[i, rows])
            conditions = replace(one.conditions, denoise_steps=steps)
            x0_hat = guided_prediction(prior, one.xt, one.t, conditions, reward_guidance).x0
            rewards.append(x0_hat[0, 0])
            sds.append(SDS(guidance)(prior, one, NO_STATE)[0])
        weights = expected_weights(scheme, torch.stack(rewards))
        expected[b] = (weights[:, None] * torch.stack(sds)).sum(0)
    assert max_difference(direction, expected) < 1e-9


def test_reward_sds_uses_denoise_steps_of_the_run():
    prior, s = mixture(), make_rows(3)
    multistep = replace(s, conditions=replace(s.conditions, denoise_steps=2))
    method = RewardSDS(7.5, 1, "best", reward_model=FirstValueReward())
    direction = direction_of(method, prior, multistep, 3)
    assert max_difference(direction, SDS(7.5)(prior, multistep, NO_STATE)) < 1e-12
    assert max_difference(direction, SDS(7.5)(prior, s, NO_STATE)) > 1e-3


class NanReward(Reward):
    def build(self, prior, setup):
        return lambda x0, conditions, particle: torch.full((len(x0),), float("nan")).double()


@pytest.mark.parametrize("scheme", ["minmax", "softmax"])
def test_nan_reward_gives_nan_direction(scheme):
    method = RewardSDS(7.5, 5, scheme, reward_model=NanReward())
    assert bool(direction_of(method, mixture(), make_rows(3), 3).isnan().all())


@pytest.mark.parametrize(
    ("noises", "scheme", "least"), [(3, "minmax", 4), (0, "best", 1), (1, "bestworst", 2)]
)
def test_reward_sds_needs_enough_noises_for_its_scheme(noises, scheme, least):
    message = f"num_noises must be at least {least} for weighting_scheme {scheme}, not {noises}"
    with pytest.raises(ValueError, match=message):
        RewardSDS(num_noises=noises, weighting_scheme=scheme)


def test_reward_sds_needs_a_reward_step():
    with pytest.raises(ValueError, match="reward_steps must be at least 1, not 0"):
        RewardSDS(reward_steps=0)


# Rewards and features


def test_density_is_the_log_density_of_the_prompt_at_the_data():
    prior = colored_shapes(8)
    conditions = prompt_conditions(prior, ["red disc", "blue ring"])
    x0 = torch.stack([prior.means[0], prior.means[0]])
    reward_fn = DensityReward().build(prior, SetupContext(2, 2, 0, x0))
    rewards = reward_fn(x0, conditions, torch.arange(2))
    assert float(rewards[0] - rewards[1]) > 100  # both rows are a red disc
    alpha, sigma = float(SD.alpha(f64([0.0]))), float(SD.sigma(f64([0.0])))
    var = alpha**2 * float(prior.stds[0]) ** 2 + sigma**2
    distance = float(((1 - alpha) * prior.means[0]).square().sum())
    expected = -distance / (2 * var) - 192 / 2 * log(2 * torch.pi * var)
    assert abs(float(rewards[0]) - expected) < 1e-6


def test_saturation_and_contrast_rewards():
    gray, red, half = torch.full((3, 8, 8), 0.5), torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    red[0], half[:, :4] = 1.0, 1.0
    images = torch.stack([gray, red, half])
    assert max_difference(SaturationReward().statistic(images), f64([0.0, 1.0, 0.0])) < 1e-6
    assert max_difference(ContrastReward().statistic(images), f64([0.0, 0.0, 0.5])) < 1e-6
    prior = colored_shapes(8)
    x0 = images.double() * 2 - 1
    conditions, particle = prompt_conditions(prior, ["disc"] * 3), torch.arange(3)
    for reward, best in (
        (SaturationReward(0.9), 1),
        (SaturationReward(0.1), 0),
        (ContrastReward(0.5), 2),
    ):
        values = reward.build(prior, SetupContext(3, 1, 0, x0))(x0, conditions, particle)
        assert int(values.argmax()) == best
        assert max_difference(values, -(reward.statistic(images) - reward.target).abs()) < 1e-6


class IdentityDecoder:
    """A prior whose x0 are images already."""

    shape, device = (3, 64, 64), "cpu"

    def decode(self, x0):
        return x0


def test_agreement_is_the_log_probability_of_what_each_prompt_names():
    texts = ("a striped red mug", "a blue cube on grass")
    images, particles = torch.rand(4, 3, 64, 64, generator=rng()), torch.tensor([3, 0, 1, 2])
    setup = SetupContext(4, 2, 0, images, texts)
    rewards = AgreementReward().build(IdentityDecoder(), setup)(images, None, particles)
    logits = shared_evaluator("cpu")(images)
    for i, particle in enumerate(particles.tolist()):
        attributes = judgeable_attributes(texts[particle // 2])
        assert set(attributes) <= set(ATTRIBUTES) and "object" in attributes
        log_probs = {name: logits[name][i].log_softmax(0) for name in attributes}
        expected = sum(float(log_probs[name][index]) for name, index in attributes.items())
        assert abs(float(rewards[i]) - expected) < 1e-4


def test_agreement_is_highest_for_the_image_of_the_prompt():
    scenes = random_scenes(8, np.random.default_rng(3))
    texts, images = tuple(full_captions(scenes)), images_to_tensor(render_scenes(scenes))
    reward_fn = AgreementReward().build(IdentityDecoder(), SetupContext(8, 8, 0, images, texts))
    by_prompt = torch.stack([reward_fn(images, None, torch.full((8,), i)) for i in range(8)])
    assert torch.equal(by_prompt.argmax(1), torch.arange(8))


def test_evaluator_features_tell_objects_apart():
    scenes = random_scenes(8, np.random.default_rng(3))
    images = images_to_tensor(render_scenes(scenes))
    grayer = (0.98 * images + 0.01).clamp(0, 1)
    f = EvaluatorFeatures()(IdentityDecoder(), torch.cat([images, grayer]))
    nearest = log_kernel(f)[0].fill_diagonal_(-torch.inf).argmax(1)
    assert torch.equal(nearest, torch.arange(16).roll(8))  # the same image, slightly grayer


def test_auto_reward_suits_the_model_or_names_another():
    gaussians, data = colored_shapes(8), DataSet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    start = SetupContext(1, 1, 0, torch.zeros(1, 3, 8, 8), ("a striped red mug",))
    x0, conditions = gaussians.means[:1], prompt_conditions(gaussians, ["red disc"])
    auto = AutoReward().build(gaussians, start)(x0, conditions, torch.arange(1))
    density = DensityReward().build(gaussians, start)(x0, conditions, None)
    assert torch.equal(auto, density)
    on_data = AutoReward().build(data, start)
    assert on_data(torch.zeros(1, 3, 8, 8), conditions, torch.arange(1)).shape == (1,)
    with pytest.raises(
        ValueError,
        match="prompt 'zebra': it names no object of the embedded world; use the reward density",
    ):
        AutoReward().build(data, replace(start, prompts=("zebra",)))
    with pytest.raises(ValueError, match="the density of this model is not known"):
        DensityReward().build(data, start)
    with pytest.raises(ValueError, match="image statistics need images"):
        SaturationReward().build(mixture(), start)


MINE = '''
from dataclasses import dataclass
from limbeck.distillation.rewards.base import Reward

@dataclass(frozen=True)
class Dark(Reward):
    """Dark images.

    Attributes:
        power: exponent of the mean.
    """

    power: float = 1.0

    def build(self, prior, setup):
        return lambda x0, conditions, particle: -x0.flatten(1).mean(1) ** self.power
'''


def test_custom_reward_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    method = RewardSDS(7.5, 4, reward_model=find(Reward, f"{path}:Dark")())
    run = Run(Experiment(("red disc",), method=method, steps=1), colored_shapes(8))
    assert bool(run.advance().gradient.isfinite().all())


def test_rewards_and_features_by_name():
    assert set(choices(Reward)) == {"agreement", "auto", "contrast", "density", "saturation"}
    assert set(choices(Features)) == {"evaluator", "identity", "pooled"}
    assert find(Reward, "agreement") is AgreementReward
    assert find(Features, "identity") is IdentityFeatures


def test_reward_sds_reaches_a_higher_reward_than_sds():
    """The best of eight noises leads to a higher density than a single noise."""
    prior, n = colored_shapes(8), 10

    def final_reward(method) -> float:
        run = Run(Experiment(("red disc",), method=method, particles=4, steps=n, seed=3), prior)
        while run.step < n:
            run.advance()
        x0 = torch.stack(list(run.representation.particles)).detach()
        conditions = prior.condition(["red disc"] * 4)
        return float(prior.log_density(x0, torch.zeros(4).double(), conditions).mean())

    assert final_reward(RewardSDS(7.5, 8, "best")) > final_reward(SDS(7.5))


def test_null_and_pos_predictions_give_any_guidance_scale():
    """RewardSDS relies on it."""
    prior, s = mixture(), make_rows(4)
    predictions = prior(s.xt, s.t, s.conditions.null, s.conditions.pos)
    for scale in (0.0, 1.0, 7.5, 100.0):
        first = apply_guidance(s.conditions, predictions, scale)
        eps = denoise_multistep(prior, first, s.xt, s.t, s.conditions, scale).eps
        expected = guided_prediction(prior, s.xt, s.t, s.conditions, scale).eps
        assert max_difference(eps, expected) < 1e-12 * (1 + scale)
