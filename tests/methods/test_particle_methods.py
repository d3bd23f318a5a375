"""Methods texts_by_row particles or noises meet: SVGD, repulsion, rewards; their kernel, features and scores."""

from dataclasses import dataclass, replace
from math import log

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
    prompt_conditions,
    rng,
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
    return method(
        prior, s, method.init(prior, SetupContext(particles, prompts, 0, torch.zeros(particles, 4)))
    )


# the kernel


def energy(f: Tensor, h: Tensor) -> Tensor:
    """log k, written out with the width held."""
    return -(f[:, None] - f[None]).square().sum(-1) / h


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_kernel_width_is_the_median_squared_distance_over_log_n(n):
    f = normal(n, 5)
    log_k, h = log_kernel(f)
    pairs = sorted(float((f[i] - f[j]).square().sum()) for i in range(n) for j in range(i))
    middle = (
        0.5 * (pairs[(len(pairs) - 1) // 2] + pairs[len(pairs) // 2]) / log(n) if n > 1 else 1.0
    )
    assert abs(float(h) - middle) < 1e-12
    assert max_difference(log_k, energy(f, f64([middle]))) < 1e-12


@pytest.mark.parametrize("n", [2, 3, 7])
def test_repulsion_is_the_gradient_of_the_kernel(n):
    f = normal(n, 5).requires_grad_()
    log_k, h = log_kernel(f.detach())
    # each pair counts twice in the sum over i and j, once for each of its two
    total = torch.autograd.grad(energy(f, h).exp().sum() / 2, f)[0]
    assert max_difference(repulsion(log_k.exp(), f.detach(), h), total) < 1e-12


def test_kernel_of_coinciding_particles():
    f = normal(1, 5).repeat(4, 1)
    log_k, h = log_kernel(f)
    assert max_difference(log_k, torch.zeros(4, 4)) == 0 and float(h) == 1
    assert max_difference(repulsion(log_k.exp(), f, h), torch.zeros(4, 5)) < 1e-14
    most = torch.cat([f, f[:1] + 2])  # 6 of 10 pairs have no distance
    log_k, h = log_kernel(most)
    assert float(h) == 1 and bool(repulsion(log_k.exp(), most, h).isfinite().all())


# SVGD


@every_time
@pytest.mark.parametrize("space", ["x0", "xt"])
def test_svgd_of_one_particle_is_sds(t, space):
    prior, s = mixture(), make_rows(5, t=t)
    assert (
        max_difference(direction_of(SVGD(7.5, space), prior, s, 5, 5), SDS(7.5)(prior, s, NO_STATE))
        < 1e-12
    )  # five prompts of one particle


@every_time
@pytest.mark.parametrize("space", ["x0", "xt"])
def test_svgd_of_two_particles_in_closed_form(t, space):
    """The median is the only distance, so k = 1/2 and - grad k = log 2 (x_j - x_i) / |x_j - x_i|^2."""
    prior, s = mixture(), make_rows(2, t=t)
    d, x = SDS(7.5)(prior, s, NO_STATE), s.x0 if space == "x0" else s.xt
    apart = x[1] - x[0]
    away = log(2) * apart / apart.square().sum()
    expected = torch.stack([(d[0] + d[1] / 2 + away) / 2, (d[1] + d[0] / 2 - away) / 2])
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

    def spread(method) -> float:
        run = Run(
            Experiment(
                ("blob",), method=method, representation=Latents(0.1), particles=8, steps=60
            ),
            prior,
        )
        while run.step < 60:
            run.advance()
        return float(torch.stack(list(run.representation.particles)).detach().std(0).mean())

    assert spread(SVGD(1.0)) > 2 * spread(SDS(1.0))


# repulsion


@every_time
@pytest.mark.parametrize("kind", ["log", "sum"])
def test_repulsion_of_one_particle_or_none_is_sds(t, kind):
    prior, s = mixture(), make_rows(5, t=t)
    sds = SDS(7.5)(prior, s, NO_STATE)
    assert max_difference(direction_of(Repulsive(7.5, 40.0, kind), prior, s, 5, 5), sds) < 1e-12
    assert max_difference(direction_of(Repulsive(7.5, 0.0, kind), prior, s, 5), sds) < 1e-12


@every_time
@pytest.mark.parametrize("schedule", [SD, RectifiedFlowSchedule()], ids=lambda s: type(s).__name__)
def test_repulsion_of_two_particles_in_closed_form(t, schedule):
    """grad log k = -2 log 2 (x_i - x_j) / |x_i - x_j|^2; of the sum, half of it."""
    prior, s = mixture(schedule), make_rows(2, schedule, t)
    apart = s.x0[0] - s.x0[1]
    slope = -2 * log(2) * apart / apart.square().sum()
    sds, sigma = SDS(7.5)(prior, s, NO_STATE), schedule.sigma(s.t)[:, None]
    both = torch.stack([slope, -slope])
    assert (
        max_difference(
            direction_of(Repulsive(7.5, 3.0, "log"), prior, s, 2), sds + 3 * sigma * both
        )
        < 1e-11
    )
    assert (
        max_difference(
            direction_of(Repulsive(7.5, 3.0, "sum"), prior, s, 2), sds + 3 * sigma * both / 2
        )
        < 1e-11
    )


@dataclass(frozen=True)
class NonlinearFeatures(Features):
    """Features that are no straight map, of another dimension."""

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
    for i in range(6):  # E of particle i, the others held
        other = f.detach()[torch.arange(6) != i]
        k = -(f[i] - other).square().sum(1) / h
        e = k.logsumexp(0) if kind == "log" else k.exp().sum()
        expected[i] = torch.autograd.grad(e, x0, retain_graph=True)[0][i]
    got = direction_of(Repulsive(7.5, 2.0, kind, features), prior, s, 6) - SDS(7.5)(
        prior, s, NO_STATE
    )
    assert max_difference(got, 2 * expand(SD.sigma(s.t), expected) * expected) < 1e-12


def test_log_repulsion_acts_on_distant_particles():
    """k of an outlier underflows; its logarithm does not."""
    prior, s = mixture(), make_rows(5)
    s = replace(s, x0=torch.cat([0.01 * s.x0[:4], s.x0[4:] + 1e3]))
    sds = SDS(7.5)(prior, s, NO_STATE)
    log_push = (direction_of(Repulsive(7.5, 1.0, "log"), prior, s, 5) - sds)[4]
    assert bool(log_push.isfinite().all()) and float(log_push.norm()) > 1
    assert float((direction_of(Repulsive(7.5, 1.0, "sum"), prior, s, 5) - sds)[4].norm()) < 1e-12


@pytest.mark.parametrize(
    "features", [PooledFeatures(2), EvaluatorFeatures()], ids=lambda f: type(f).__name__
)
def test_image_features_are_differentiable(features):
    prior = colored_shapes(8)
    x0 = (0.3 * normal(3, 3, 8, 8, dtype=torch.float32)).requires_grad_()
    f = features(prior, x0)
    assert f.ndim == 2 and len(f) == 3
    grads = torch.autograd.grad(f[1].square().sum(), x0)[0]
    assert (
        float(grads[1].abs().max()) > 0 and float(grads[0].abs().max()) == 0
    )  # a row's features are its own
    if isinstance(features, PooledFeatures):
        assert (
            max_difference(
                f[0].detach().particle(3, 2, 2), x0.detach()[0].particle(3, 2, 4, 2, 4).mean((2, 4))
            )
            < 1e-6
        )
    run = Run(
        Experiment(("red disc",), method=Repulsive(5.0, features=features), particles=3, steps=2),
        prior,
    )
    assert all(bool(run.advance().gradient.isfinite().all()) for _ in range(2))


@pytest.mark.parametrize(
    "features", [PooledFeatures(), EvaluatorFeatures()], ids=lambda f: type(f).__name__
)
def test_image_features_reject_vectors(features):
    with pytest.raises(ValueError, match=r"not .*4.*: use --method.features identity"):
        direction_of(Repulsive(features=features), mixture(), make_rows(3), 3)
    with pytest.raises(ValueError, match="grid_size must be at least 1"):
        PooledFeatures(0)


# both: who meets whom

INTERACTING = [
    SVGD(7.5),
    SVGD(7.5, "xt"),
    Repulsive(7.5),
    Repulsive(7.5, energy="sum"),
    Repulsive(7.5, features=NonlinearFeatures()),
]
ids = ["svgd", "svgd-xt", "log", "sum", "bent"]


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
def test_interacting_methods_are_permutation_equivariant(method):
    prior, s = mixture(), make_rows(6, t=f64([0.1, 0.3, 0.5, 0.6, 0.8, 0.9]))
    whole = direction_of(method, prior, s, 6)
    order = torch.randperm(6, generator=rng())
    assert (
        max_difference(
            direction_of(method, prior, replace(s.select(order), particle=torch.arange(6)), 6),
            whole[order],
        )
        < 1e-11
    )


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
def test_identity_30_direction_depends_only_on_rows_of_the_same_prompt(method):
    prior, s = mixture(), make_rows(6, t=f64([0.1, 0.3, 0.5, 0.6, 0.8, 0.9]))
    whole = direction_of(method, prior, s, 6, 2)  # particles 0 1 2 and 3 4 5
    for rows in (torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])):
        assert (
            max_difference(direction_of(method, prior, s.select(rows), 6, 2), whole[rows]) < 1e-12
        )
    mixed = torch.tensor([4, 0, 5, 2])  # some of either, in no order
    apart = [direction_of(method, prior, s.select(torch.tensor(r)), 6, 2) for r in ([4, 5], [0, 2])]
    expected = torch.stack([apart[0][0], apart[1][0], apart[0][1], apart[1][1]])
    assert max_difference(direction_of(method, prior, s.select(mixed), 6, 2), expected) < 1e-12
    alone = direction_of(method, prior, s.select(torch.tensor([0])), 6, 2)
    assert max_difference(alone, whole[:1]) > 1e-3  # within a prompt it does depend
    assert max_difference(alone, SDS(7.5)(prior, s.select(torch.tensor([0])), NO_STATE)) < 1e-12


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
@pytest.mark.parametrize("n", [1, 6])
def test_interacting_methods_pass_as_sds(method, n):
    prior, s = mixture(), make_rows(n)
    assert count_calls(prior, lambda: direction_of(method, prior, s, n))[1] == (1, 2 * n)


@pytest.mark.parametrize("method", INTERACTING, ids=ids)
def test_identity_33_direction_is_equivariant(method):
    if method == Repulsive(7.5, features=NonlinearFeatures()):
        return  # features that are bent do not turn with the world
    rotation, shift, s = torch.linalg.qr(normal(4, 4, seed=4)).Q, normal(4, seed=5), make_rows(5)

    def direction(means, x, e):
        return direction_of(
            method, GaussianMixture(means, f64([0.3, 0.6, 1.0])), replace(s, x0=x, eps=e), 5
        )

    reference = direction(normal(3, 4, seed=1), s.x0, s.eps)
    assert (
        max_difference(
            direction(normal(3, 4, seed=1) @ rotation, s.x0 @ rotation, s.eps @ rotation),
            reference @ rotation,
        )
        < 1e-10
    )
    moved = direction(normal(3, 4, seed=1) + shift, s.x0 + shift, s.eps)
    assert max_difference(moved, reference) < 1e-10


@pytest.mark.parametrize("method", [*INTERACTING[:4], RewardSDS(7.5, 4)], ids=[*ids[:4], "reward"])
def test_identity_31_resumed_run_equals_uninterrupted_one(method):
    prior, experiment = (
        colored_shapes(8),
        Experiment(("red disc", "blue ring"), method=method, particles=3, batch_size=4, steps=6),
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
    """Scores are a number of the picture."""

    def build(self, prior, start):
        return lambda x0, conditions, particle: x0.flatten(1)[:, 0]


def draw_noises(s, n: int) -> Tensor:
    """The noises of RewardSDS ``[N, B, ...]``: the drawn one and more from the step's generator."""
    more = torch.randn((n - 1) * len(s.x0), *s.x0.shape[1:], generator=rng(99)).to(s.eps)
    return torch.cat([s.eps, more]).particle(n, *s.x0.shape)


@pytest.mark.parametrize("scheme", ["best", "softmax"])
@every_time
def test_reward_sds_with_one_noise_is_sds(scheme, t):
    prior, s = mixture(), make_rows(5, t=t)
    assert (
        max_difference(
            direction_of(RewardSDS(7.5, 1, scheme, reward_model=FirstValueReward()), prior, s, 5),
            SDS(7.5)(prior, s, NO_STATE),
        )
        < 1e-12
    )


def expected_weights(scheme: str, score: Tensor) -> Tensor:
    order = score.tolist()
    rank = sorted(range(len(order)), key=lambda i: -order[i])
    w = torch.zeros(len(order)).double()
    if scheme == "softmax":
        return score.exp() / score.exp().sum()
    for i, value in {
        "minmax": [(0, 0.45), (1, 0.45), (-1, -0.05), (-2, -0.05)],
        "bestworst": [(0, 0.9), (-1, -0.1)],
        "best": [(0, 1.0)],
    }[scheme]:
        w[rank[i]] += value
    return w


@pytest.mark.parametrize("scheme", ["minmax", "bestworst", "best", "softmax"])
@pytest.mark.parametrize(("guidance", "look"), [(7.5, 7.5), (100.0, 7.5), (1.0, 1.0), (1.0, 7.5)])
@pytest.mark.parametrize("steps", [1, 3])
def test_reward_sds_is_the_weighted_sum_over_noises(scheme, guidance, look, steps):
    prior, s, n = mixture(), make_rows(3, t=f64([0.2, 0.5, 0.9])), 5
    got, spent = count_calls(
        prior,
        lambda: direction_of(
            RewardSDS(guidance, n, scheme, steps, look, FirstValueReward()), prior, s, 3
        ),
    )
    both = 1 if guidance == look == 1 else 2
    assert spent == (steps, 3 * n * (both + (steps - 1) * (1 if look == 1 else 2)))
    expected = torch.zeros_like(got)
    eps = draw_noises(s, n)
    for b in range(3):
        rows = torch.tensor([b])
        each, scores = [], []
        for i in range(n):
            one = replace(s.select(rows), eps=eps[i, rows])
            each.append(SDS(guidance)(prior, one, NO_STATE)[0])
            scores.append(
                guided_prediction(
                    prior, one.xt, one.t, replace(one.conditions, denoise_steps=steps), look
                ).x0[0, 0]
            )
        expected[b] = (
            expected_weights(scheme, torch.stack(scores))[:, None] * torch.stack(each)
        ).sum(0)
    assert max_difference(got, expected) < 1e-9


def test_reward_sds_uses_denoise_steps_of_the_run():
    prior, s = mixture(), make_rows(3)
    s = replace(s, conditions=replace(s.conditions, denoise_steps=2))
    got = direction_of(RewardSDS(7.5, 1, "best", reward_model=FirstValueReward()), prior, s, 3)
    assert max_difference(got, SDS(7.5)(prior, s, NO_STATE)) < 1e-12
    assert (
        max_difference(
            got,
            SDS(7.5)(
                prior, replace(s, conditions=replace(s.conditions, denoise_steps=1)), NO_STATE
            ),
        )
        > 1e-3
    )


def test_nan_reward_gives_nan_direction():
    class NanReward(Reward):
        def build(self, prior, start):
            return lambda x0, conditions, particle: torch.full((len(x0),), float("nan")).double()

    for scheme in ("minmax", "softmax"):
        assert bool(
            direction_of(
                RewardSDS(7.5, 5, scheme, reward_model=NanReward()), mixture(), make_rows(3), 3
            )
            .isnan()
            .all()
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noises": 3}, "minmax needs noises of at least 4"),
        ({"noises": 0, "scheme": "best"}, "best needs noises of at least 1"),
        ({"noises": 1, "scheme": "bestworst"}, "bestworst needs noises of at least 2"),
        ({"steps": 0}, "steps of at least 1"),
    ],
)
def test_reward_rejects_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        RewardSDS(**options)


# scores


def test_density_is_the_log_density_of_the_prompt_at_the_data():
    prior = colored_shapes(8)
    conditions = prompt_conditions(prior, ["red disc", "blue ring"])
    x0 = torch.stack([prior.means[0], prior.means[0]])
    got = DensityReward().build(prior, SetupContext(2, 2, 0, x0))(x0, conditions, torch.arange(2))
    assert float(got[0] - got[1]) > 100  # a red disc is one
    var = (
        float(SD.alpha(f64([0.0]))) ** 2 * float(prior.stds[0]) ** 2
        + float(SD.sigma(f64([0.0]))) ** 2
    )
    off = ((1 - float(SD.alpha(f64([0.0])))) * prior.means[0]).square().sum()
    assert abs(float(got[0]) + float(off) / (2 * var) + 192 / 2 * log(2 * torch.pi * var)) < 1e-6


def test_saturation_and_contrast_rewards():
    gray, red, half = torch.full((3, 8, 8), 0.5), torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    red[0], half[:, :4] = 1.0, 1.0
    images = torch.stack([gray, red, half])
    assert max_difference(SaturationReward().statistic(images), f64([0.0, 1.0, 0.0])) < 1e-6
    assert max_difference(ContrastReward().statistic(images), f64([0.0, 0.0, 0.5])) < 1e-6
    prior = colored_shapes(8)
    x0 = images.double() * 2 - 1
    for scorer, best in (
        (SaturationReward(0.9), 1),
        (SaturationReward(0.1), 0),
        (ContrastReward(0.5), 2),
    ):
        score = scorer.build(prior, SetupContext(3, 1, 0, x0))(
            x0, prompt_conditions(prior, ["disc"] * 3), torch.arange(3)
        )
        assert int(score.argmax()) == best
        assert max_difference(score, -(scorer.statistic(images) - scorer.target).abs()) < 1e-6


class IdentityDecoder:
    """Pictures that decode to themselves."""

    shape, device = (3, 64, 64), "cpu"

    def decode(self, x0):
        return x0


def test_agreement_is_the_log_probability_of_what_each_prompt_names():
    texts = ("a striped red mug", "a blue cube on grass")
    images, particle = torch.rand(4, 3, 64, 64, generator=rng()), torch.tensor([3, 0, 1, 2])
    got = AgreementReward().build(IdentityDecoder(), SetupContext(4, 2, 0, images, texts))(
        images, None, particle
    )
    logits = shared_evaluator("cpu")(images)
    for i, particle in enumerate(particle.tolist()):
        attributes = judgeable_attributes(texts[particle // 2])
        assert set(attributes) <= set(ATTRIBUTES) and "object" in attributes
        expected = sum(
            float(logits[name][i].log_softmax(0)[index]) for name, index in attributes.items()
        )
        assert abs(float(got[i]) - expected) < 1e-4


def test_agreement_is_highest_for_the_image_of_the_prompt():
    scenes = random_scenes(8, np.random.default_rng(3))
    texts, images = tuple(full_captions(scenes)), images_to_tensor(render_scenes(scenes))
    score = AgreementReward().build(IdentityDecoder(), SetupContext(8, 8, 0, images, texts))
    table = torch.stack(
        [score(images, None, torch.full((8,), i)) for i in range(8)]
    )  # [prompt, picture]
    assert torch.equal(table.argmax(1), torch.arange(8))


def test_evaluator_features_tell_objects_apart():
    scenes = random_scenes(8, np.random.default_rng(3))
    images = images_to_tensor(render_scenes(scenes))
    f = EvaluatorFeatures()(
        IdentityDecoder(), torch.cat([images, (0.98 * images + 0.01).clamp(0, 1)])
    )
    near = log_kernel(f)[0].fill_diagonal_(-torch.inf).argmax(1)
    assert torch.equal(
        near, torch.arange(16).roll(8)
    )  # each is nearest to its own slightly grayer self


def test_auto_reward_suits_the_model_or_names_another():
    gaussians, data = colored_shapes(8), DataSet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    start = SetupContext(1, 1, 0, torch.zeros(1, 3, 8, 8), ("a striped red mug",))
    x0, conditions = gaussians.means[:1], prompt_conditions(gaussians, ["red disc"])
    assert torch.equal(
        AutoReward().build(gaussians, start)(x0, conditions, torch.arange(1)),
        DensityReward().build(gaussians, start)(x0, conditions, None),
    )
    assert AutoReward().build(data, start)(
        torch.zeros(1, 3, 8, 8), conditions, torch.arange(1)
    ).shape == (1,)
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
    """Dark is good. power: of the mean."""

    power: float = 1.0

    def build(self, prior, start):
        return lambda x0, told, particle: -x0.flatten(1).mean(1) ** self.power
'''


def test_custom_reward_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    scorer = find(Reward, f"{path}:Dark")()
    run = Run(
        Experiment(("red disc",), method=RewardSDS(7.5, 4, reward_model=scorer), steps=1),
        colored_shapes(8),
    )
    assert bool(run.advance().gradient.isfinite().all())


def test_rewards_and_features_by_name():
    assert set(choices(Reward)) == {"agreement", "auto", "contrast", "density", "saturation"}
    assert set(choices(Features)) == {"itself", "pooled", "seen"}
    assert (
        find(Reward, "agreement") is AgreementReward
        and find(Features, "itself") is IdentityFeatures
    )


def test_reward_sds_reaches_a_higher_reward_than_sds():
    """By its own score: the best of eight noises leads to a denser picture than one noise does."""
    prior, n = colored_shapes(8), 10

    def reached(method) -> float:
        run = Run(Experiment(("red disc",), method=method, particles=4, steps=n, seed=3), prior)
        while run.step < n:
            run.advance()
        x0 = torch.stack(list(run.representation.particles)).detach()
        conditions = prior.condition(["red disc"] * 4)
        return float(prior.log_density(x0, torch.zeros(4).double(), conditions).mean())

    assert reached(RewardSDS(7.5, 8, "best")) > reached(SDS(7.5))


def test_null_and_pos_predictions_give_any_guidance_scale():
    """What RewardSDS relies on: null and pos, once asked, give any scale."""
    prior, s = mixture(), make_rows(4)
    answers = prior(s.xt, s.t, s.conditions.null, s.conditions.pos)
    for scale in (0.0, 1.0, 7.5, 100.0):
        mine = denoise_multistep(
            prior, apply_guidance(s.conditions, answers, scale), s.xt, s.t, s.conditions, scale
        )
        assert max_difference(
            mine.eps, guided_prediction(prior, s.xt, s.t, s.conditions, scale).eps
        ) < 1e-12 * (1 + scale)
