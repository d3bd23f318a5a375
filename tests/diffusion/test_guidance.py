"""What every method leans on: Perp-Neg, conditions by rows, many steps, gradients, refined noise, the source of an edit."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipeline import asked_of, classes, drawn, f64, normal, rng, spoken, worst
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import (
    apply_guidance,
    denoise_multistep,
    guided_prediction,
    required_conditions,
)
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.schedule import Cosine, RectifiedFlow, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.gradient_transforms import Clip, Normalize
from limbeck.distillation.inputs import EditSource, SetupContext
from limbeck.distillation.noise import PredictedNoise
from limbeck.distillation.state import Stateless
from limbeck.distillation.weights import LambdaWeight, UniformWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.asd import ASD
from limbeck.methods.base import StatelessMethod, edit_source
from limbeck.methods.bridge import Bridge
from limbeck.methods.csd import CSD
from limbeck.methods.esd import ESD
from limbeck.methods.hifa import HiFA
from limbeck.methods.irfds import IRFDS
from limbeck.methods.ism import ISM
from limbeck.methods.repulsive import Repulsive
from limbeck.methods.rewardsds import RewardSDS
from limbeck.methods.rfds import RFDS
from limbeck.methods.rfdsrev import RFDSRev
from limbeck.methods.sds import SDS
from limbeck.methods.sjc import SJC
from limbeck.methods.svgd import SVGD
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture, coloured_shapes
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

SD = stable_diffusion_schedule()
SCHEDULES = [SD, Cosine(), RectifiedFlow()]
FREE = Stateless()
TOLD = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))
TIMES = [0.03, 0.5, 0.97]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", TIMES)


def mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), schedule=schedule)


def shares(rows: int, values: tuple[float, ...]) -> Condition:
    return Condition(f64(list(values)).log().expand(rows, -1))


def keeping_away(rows: int, *against: tuple[tuple[float, ...], list[float]]) -> Conditions:
    conditions = classes(rows, *TOLD)
    return replace(
        conditions, perp_neg=tuple((shares(rows, text), f64(weight)) for text, weight in against)
    )


GREEN, BLUE = (0.05, 0.9, 0.05), (0.7, 0.2, 0.1)
BOTH = ((GREEN, [0.5, 1.0, 2.0, 0.0, -1.0]), (BLUE, [3.0, 0.1, 0.0, 1.0, 0.7]))


def drawn5(schedule=SD, t: Tensor | float = 0.5, conditions: Conditions | None = None):
    return drawn(
        schedule, normal(5, 4, seed=2), t, normal(5, 4, seed=3), conditions or classes(5, *TOLD)
    )


# Perp-Neg


def perp_neg(null, pos, negs, weights, scale):
    """Armandpour et al. 2023, eq. 7, row by row in numpy."""
    out = np.empty_like(null)
    for b in range(len(null)):
        d, total = pos[b] - null[b], pos[b] - null[b]
        for neg, weight in zip(negs, weights, strict=True):
            n = neg[b] - null[b]
            total = total - weight[b] * (n - (n * d).sum() / (d * d).sum() * d)
        out[b] = null[b] + scale * total
    return out


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5, -2.0])
@pytest.mark.parametrize("against", [BOTH[:1], BOTH], ids=["one", "two"])
@pytest.mark.parametrize("shape", [(6,), (3, 4, 4)])
def test_perp_neg_is_its_formula_row_by_row(scale, against, shape):
    said = [
        Prediction(normal(5, *shape, seed=2 * i), normal(5, *shape, seed=2 * i + 1))
        for i in range(2 + len(against))
    ]
    conditions = keeping_away(5, *against)
    expected = perp_neg(
        *(p.eps.numpy() for p in said[:2]),
        [p.eps.numpy() for p in said[2:]],
        [w for _, w in against],
        scale,
    )
    assert worst(apply_guidance(conditions, said, scale).eps, torch.from_numpy(expected)) < 1e-11


@every_schedule
@every_time
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_perp_neg_leaves_x0_and_eps_consistent(schedule, t, scale):
    """Its shares add up to 1, so what holds of each prediction holds of the sum."""
    prior, s = mixture(schedule), drawn5(schedule, t, keeping_away(5, *BOTH))
    said = guided_prediction(prior, s.xt, s.t, s.conditions, scale)
    assert worst(schedule.add_noise(said.x0, said.eps, s.t), s.xt) < 1e-10


@every_time
def test_perp_neg_of_weight_zero_is_plain_guidance(t):
    prior, s = mixture(), drawn5(t=t)
    conditions = keeping_away(5, (GREEN, [0.0] * 5))
    for scale in (0.0, 1.0, 7.5):
        assert (
            worst(
                guided_prediction(prior, s.xt, s.t, conditions, scale).eps,
                guided_prediction(prior, s.xt, s.t, s.conditions, scale).eps,
            )
            < 1e-12
        )


@every_time
def test_perp_neg_against_the_prompt_itself_is_plain_guidance(t):
    prior, s = mixture(), drawn5(t=t)
    conditions = keeping_away(5, (TOLD[1], [2.0] * 5))
    assert (
        worst(
            guided_prediction(prior, s.xt, s.t, conditions, 7.5).eps,
            guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).eps,
        )
        < 1e-11
    )


def test_perp_neg_takes_away_only_what_the_prompt_does_not_say():
    prior, s = mixture(), drawn5()
    conditions = keeping_away(5, (GREEN, [1.5] * 5))
    null, pos, neg = prior(s.xt, s.t, *required_conditions(conditions, 7.5))
    d, removed = (
        pos.eps - null.eps,
        guided_prediction(prior, s.xt, s.t, s.conditions, 1.0).eps
        - guided_prediction(prior, s.xt, s.t, conditions, 1.0).eps,
    )
    assert float((removed * d).sum(1).abs().max()) < 1e-12 < float(removed.abs().max())
    assert float((removed * (neg.eps - null.eps)).sum(1).min()) > 0


def test_perp_neg_where_the_prompt_says_nothing_takes_the_whole_text_away():
    prior, s = mixture(), drawn5()
    conditions = replace(keeping_away(5, (GREEN, [1.0] * 5)), pos=s.conditions.null)
    null, _, neg = prior(s.xt, s.t, *required_conditions(conditions, 7.5))
    assert (
        worst(
            guided_prediction(prior, s.xt, s.t, conditions, 7.5).eps,
            null.eps - 7.5 * (neg.eps - null.eps),
        )
        < 1e-12
    )


def test_perp_neg_rows_do_not_meet():
    prior, s = mixture(), drawn5(conditions=keeping_away(5, *BOTH))
    whole = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).eps
    for i in range(5):
        rows = torch.tensor([i])
        assert (
            worst(
                guided_prediction(prior, s.xt[rows], s.t[rows], s.conditions[rows], 7.5).eps,
                whole[rows],
            )
            < 1e-13
        )


EXACT = ExactCritic()
#: rows of the prior per particle and step, without and with one text to keep away from, and calls; guidance is 7.5
COST = [
    (SDS(7.5), 2, 3, 1), (SJC(7.5), 2, 3, 1), (CSD(), 2, 2, 1), (ASD(7.5), 3, 4, 2), (HiFA(7.5, 4), 8, 12, 4),
    (Bridge(7.5), 2, 3, 1),
    (VSD(7.5, critic=EXACT), 2, 3, 1), (ESD(7.5, critic=EXACT), 2, 3, 1), (RFDS(7.5), 2, 3, 1), (RFDSRev(7.5), 3, 6, 2),
    (SVGD(7.5), 2, 3, 1), (Repulsive(7.5), 2, 3, 1), (RewardSDS(7.5, 5), 10, 15, 1), (RewardSDS(100.0, 4, steps=3), 24, 36, 3),
    (ISM(7.5, delta_t=0.1, delta_s=0.2, anneal=0.0), 5, 6, 4), (SDS(1.0), 1, 3, 1), (SDS(0.0), 1, 3, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "plain", "away", "calls"),
    COST,
    ids=lambda v: type(v).__name__ if not isinstance(v, int) else "",
)
def test_identity_29_every_method_costs_what_its_formula_needs(method, plain, away, calls):
    prior = GaussianMixture(
        normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=("red", "green", "blue")
    )
    for rows, conditions in (
        (plain, classes(5, *TOLD)),
        (away, keeping_away(5, (GREEN, [1.0] * 5))),
    ):
        s = drawn5(t=0.5, conditions=conditions)
        state = method.init(prior, SetupContext(5, 1, 0, s.x0, ("red",)))
        assert asked_of(prior, lambda s=s, state=state: method(prior, s, state))[1] == (
            calls,
            5 * rows,
        )


def test_identity_29_an_edits_inverse_costs_one_pass():
    prior, s = mixture(), drawn5()
    s = replace(s, source=EditSource(s.eps, s.conditions))
    assert asked_of(prior, lambda: IRFDS()(prior, s, FREE))[1] == (1, 5)


@pytest.mark.parametrize("method", [m for m, *_ in COST], ids=lambda m: type(m).__name__)
def test_a_methods_own_page_and_passes_are_there(method):
    assert method.passes and method.bibtex.startswith("@")


def test_perpendicular_in_a_run_is_perp_neg_of_the_negative_text():
    prior = coloured_shapes(8)
    options = {
        "prompts": ("red disc", "blue ring"),
        "negative": "green",
        "particles": 2,
        "steps": 1,
        "weight": UniformWeight(),
    }
    run = Run(Experiment(method=SDS(5.0), perp_neg=1.5, **options), prior)
    step = run.advance()
    s = step.sample
    conditions = spoken(prior, ["red disc", "red disc", "blue ring", "blue ring"])
    away = replace(conditions, perp_neg=((prior.condition(["green"] * 4), f64([1.5] * 4)),))
    assert worst(step.gradient, guided_prediction(prior, s.xt, s.t, away, 5.0).eps - s.eps) < 1e-5
    plain = Run(Experiment(method=SDS(5.0), **options), prior).advance()
    instead = Conditions(conditions.pos, prior.condition(["green"] * 4))
    assert (
        worst(plain.gradient, guided_prediction(prior, s.xt, s.t, instead, 5.0).eps - s.eps) < 1e-5
    )
    assert worst(plain.gradient, step.gradient) > 1e-2


# conditions by rows


def test_conditions_are_cut_by_rows_with_all_that_belongs_to_them():
    conditions = replace(keeping_away(5, *BOTH), denoise_steps=3)
    rows = torch.tensor([3, 0, 3])
    for cut in (rows, slice(1, 3)):
        some = conditions[cut]
        assert torch.equal(some.pos.data, conditions.pos.data[cut]) and torch.equal(
            some.null.data, conditions.null.data[cut]
        )
        assert all(
            torch.equal(w, v[cut])
            for (_, w), (_, v) in zip(some.perp_neg, conditions.perp_neg, strict=True)
        )
        assert some.denoise_steps == 3 and len(some.perp_neg) == 2
    adapted = Condition(conditions.pos.data, "adapters")
    assert adapted[rows].adapters == "adapters" and len(adapted[rows]) == 3


def test_conditions_of_two_samples_go_in_one_call():
    prior, a, b = (
        mixture(),
        drawn5(t=0.3, conditions=keeping_away(5, *BOTH)),
        drawn5(t=0.7, conditions=keeping_away(5, *BOTH[::-1])),
    )
    b = replace(b, x0=b.x0 + 1)
    both = a.conditions.concat(b.conditions)
    assert both.pos.data.shape[0] == 10
    xt, t = torch.cat([a.xt, b.xt]), torch.cat([a.t, b.t])
    got, spent = asked_of(prior, lambda: guided_prediction(prior, xt, t, both, 7.5).eps)
    apart = torch.cat([guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).eps for s in (a, b)])
    assert worst(got, apart) < 1e-12 and spent == (1, 40)
    adapted = Condition(a.conditions.pos.data, "mine").concat(
        Condition(b.conditions.pos.data, "mine")
    )
    assert adapted.adapters == "mine" and len(adapted) == 10


def test_conditions_that_are_not_alike_do_not_join():
    conditions = classes(5, *TOLD)
    with pytest.raises(ValueError, match="do not join: k 1 and 1, texts to keep away from 2 and 0"):
        keeping_away(5, *BOTH).concat(conditions)
    with pytest.raises(ValueError, match="do not join: k 1 and 3"):
        conditions.concat(replace(conditions, denoise_steps=3))
    with pytest.raises(
        ValueError, match="rows through adapters and rows through others do not join"
    ):
        conditions.pos.with_adapters("mine").concat(conditions.pos)


def test_what_a_critic_hears_is_plain():
    conditions = replace(keeping_away(5, *BOTH), denoise_steps=3)
    assert conditions.plain.perp_neg == () and conditions.plain.denoise_steps == 1
    assert conditions.plain.pos is conditions.pos and conditions.plain.null is conditions.null


# many-step predictions


def test_a_prediction_of_one_step_is_left_as_it_is():
    prior, s = mixture(), drawn5()
    said = prior(s.xt, s.t, s.conditions.pos)[0]
    got, spent = asked_of(
        prior, lambda: denoise_multistep(prior, said, s.xt, s.t, s.conditions, 7.5)
    )
    assert got is said and spent == (0, 0)


@every_schedule
@every_time
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("conditions", [classes(5, *TOLD), keeping_away(5, *BOTH)], ids=["plain", "perp"])
def test_a_prediction_of_k_steps_is_the_sampler_written_out(schedule, t, k, conditions):
    prior, s = mixture(schedule), drawn5(schedule, t)
    got, spent = asked_of(
        prior,
        lambda: guided_prediction(prior, s.xt, s.t, replace(conditions, denoise_steps=k), 7.5),
    )
    assert spent == (k, 5 * k * (4 if conditions.perp_neg else 2))
    x, now = s.xt, s.t
    for left in range(k - 1, -1, -1):
        said = apply_guidance(conditions, prior(x, now, *required_conditions(conditions, 7.5)), 7.5)
        if left:
            now = schedule.snap(s.t * left / k)
            x = expand(schedule.alpha(now), x) * said.x0 + expand(schedule.sigma(now), x) * said.eps
    assert worst(got.x0, said.x0) < 1e-11
    assert worst(schedule.add_noise(got.x0, got.eps, s.t), s.xt) < 1e-10


@every_schedule
@every_time
@pytest.mark.parametrize("k", [1, 2, 4])
def test_identity_12_sds_of_many_step_predictions_is_hifa(schedule, t, k):
    prior, s = mixture(schedule), drawn5(schedule, t)
    sds = SDS(7.5)(prior, replace(s, conditions=replace(s.conditions, denoise_steps=k)), FREE)
    assert worst(sds, HiFA(7.5, k, image=0.0)(prior, s, FREE)) < 1e-9
    x0 = guided_prediction(prior, s.xt, s.t, replace(s.conditions, denoise_steps=k), 7.5).x0
    assert worst(expand(LambdaWeight()(schedule, s.t), sds) * sds, s.x0 - x0) < 1e-9


def test_multistep_in_a_run_reaches_the_prior():
    prior = coloured_shapes(8)
    run = Run(
        Experiment(("red disc",), method=SDS(5.0), denoise_steps=3, particles=2, steps=1), prior
    )
    run.advance()
    assert (prior.meter.calls, prior.meter.rows) == (3, 12)
    hifa = Run(
        Experiment(("red disc",), method=HiFA(5.0, 3, image=0.0), particles=2, steps=1),
        coloured_shapes(8),
    ).advance()
    again = Run(
        Experiment(("red disc",), method=SDS(5.0), denoise_steps=3, particles=2, steps=1),
        coloured_shapes(8),
    ).advance()
    assert worst(again.gradient, hifa.gradient) < 1e-4


def test_vsd_takes_many_steps_of_the_prior_and_one_of_the_critic():
    prior, s = mixture(), drawn5()
    s = replace(s, conditions=replace(s.conditions, denoise_steps=3))
    method = VSD(7.5, critic=EXACT)
    state = method.init(prior, SetupContext(5, 5, 0, s.x0))
    assert (
        worst(method(prior, s, state), SDS(7.5)(prior, s, FREE)) < 1e-11
    )  # alone, the exact critic says eps


# gradients


def test_clipped_keeps_numbers_within_its_bound_and_grows():
    g = 5 * normal(4, 6)
    clip = Clip(1.0, 3.0, over=0.5)
    for step, c in ((0, 1.0), (5, 2.0), (10, 3.0), (19, 3.0)):
        assert worst(clip(g, step, 20), torch.from_numpy(np.clip(g.numpy(), -c, c))) == 0
    assert worst(Clip(1.0, 3.0, over=0.0)(g, 0, 20), g.clamp(-3, 3)) == 0
    assert worst(Clip(3.0, 1.0)(g, 10, 20), g.clamp(-2, 2)) == 0
    assert (
        worst(Clip()(g, 0, 20), g.clamp(-2, 2)) == 0
        and worst(Clip()(g, 20, 20), g.clamp(-8, 8)) == 0
    )


def test_normalised_gives_every_row_one_size_and_leaves_zeros():
    g = normal(4, 3, 5, 5) * f64([1e-12, 1.0, 1e9, 0.0])[:, None, None, None]
    out = Normalize(2.0)(g, 0, 10)
    assert worst(out.square().mean((1, 2, 3)).sqrt()[:3], f64([2.0] * 3)) < 1e-12
    assert worst(out[3], torch.zeros(3, 5, 5)) == 0
    along = [a.flatten() / a.norm() for pair in zip(out[:3], g[:3], strict=True) for a in pair]
    assert all(worst(a, b) < 1e-12 for a, b in zip(along[::2], along[1::2], strict=True))


@pytest.mark.parametrize(
    "gradient", [Clip(0.01, 0.01), Normalize(0.5)], ids=lambda g: type(g).__name__
)
def test_what_is_done_to_the_gradient_reaches_the_particle(gradient):
    experiment = Experiment(("red disc",), method=SDS(5.0), grad_transform=gradient, representation=Latents(0.5), optimizer=SGD(),
                            particles=2, steps=1)  # fmt: skip
    run = Run(experiment, coloured_shapes(8))
    before = torch.stack(list(run.representation.particles)).detach().clone()
    step = run.advance()
    plain = (
        Run(
            replace(experiment, grad_transform=Experiment(("x",)).grad_transform),
            coloured_shapes(8),
        )
        .advance()
        .gradient
    )
    assert torch.equal(step.gradient, gradient(plain, 0, 1))
    assert (
        worst(torch.stack(list(run.representation.particles)), before - 0.5 * step.gradient) < 1e-6
    )


@dataclass(frozen=True)
class Infinite(StatelessMethod):
    value: float = float("inf")

    def __call__(self, prior, sample, state):
        return torch.full_like(sample.x0, self.value)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("gradient", [Clip(), Normalize()], ids=lambda g: type(g).__name__)
def test_no_gradient_makes_a_finite_number_of_one_that_is_not(gradient, value):
    run = Run(
        Experiment(("red disc",), method=Infinite(value), grad_transform=gradient, steps=1),
        coloured_shapes(8),
    )
    with pytest.raises(NonFiniteError, match="the direction the method answered"):
        run.advance()


@pytest.mark.parametrize(("make", "said"), [
    (lambda: Clip(0.0), "first and last must be positive"), (lambda: Clip(1.0, -1.0), "first and last must be positive"),
    (lambda: Clip(over=1.5), "over a share of the run"), (lambda: Normalize(0.0), "size must be positive, not 0.0"),
])  # fmt: skip
def test_gradients_refuse(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# noise that asks the prior


@pytest.mark.parametrize("rounds", [1, 3])
def test_identity_13_predicted_noise_in_a_run_is_rfds_rev(rounds):
    make = lambda: coloured_shapes(8, schedule=RectifiedFlow(), kind="flow")  # noqa: E731
    options = {"prompts": ("red disc",), "particles": 2, "steps": 1}
    prior = make()
    one = Run(Experiment(method=RFDS(5.0), noise=PredictedNoise(rounds=rounds), **options), prior)
    a = one.advance()
    assert (prior.meter.calls, prior.meter.rows) == (rounds + 1, 2 * rounds + 4)
    b = Run(Experiment(method=RFDSRev(5.0, rounds=rounds), **options), make()).advance()
    assert worst(a.gradient, b.gradient) < 1e-6
    if rounds == 1:  # what every later part of the step sees is the replaced noise
        seen = b.sample
        assert worst(a.sample.eps, prior(seen.xt, seen.t, seen.conditions.pos)[0].eps) < 1e-6


def test_predicted_noise_refuses_no_rounds():
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        PredictedNoise(rounds=0)


# the source of an edit


@dataclass(frozen=True)
class Back(StatelessMethod):
    """Descends to the source."""

    def __call__(self, prior, sample, state):
        return sample.x0.detach() - edit_source(sample).x0


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for i in range(2):
        values = torch.rand(8, 8, 3, generator=rng(i)) * 0.9 + 0.05
        Image.fromarray((values * 255).to(torch.uint8).numpy()).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    return tuple(paths)


@pytest.mark.parametrize("spec", [Latents, Pixels], ids=["latents", "pixels"])
@pytest.mark.parametrize("batch", [0, 2])
def test_the_source_is_the_first_render_of_the_same_particles(spec, batch, pictures):
    experiment = Experiment(("red disc", "blue ring"), source_prompt=("green disc", "yellow ring"), method=Back(), batch_size=batch,
                            particles=2, representation=spec(images=pictures), steps=6)  # fmt: skip
    run = Run(experiment, coloured_shapes(8))
    with torch.no_grad():
        first = run._x0(run.representation.render(RenderRequest(torch.arange(4)))).clone()
    texts = run.prior.condition(["green disc", "green disc", "yellow ring", "yellow ring"])
    for _ in range(6):
        with torch.no_grad():
            for p in run.representation.parameters():
                p.add_(0.01)  # the particles go elsewhere, the source does not
        s = run.advance().sample
        assert torch.equal(s.source.x0, first[s.particle])
        assert torch.equal(s.source.conditions.pos.data, texts.data[s.particle])
        assert torch.equal(
            s.source.conditions.null.data, run.prior.condition([""] * len(s.particle)).data
        )
        assert worst(s.x0, s.source.x0) > 0 and not s.source.x0.requires_grad


@pytest.mark.parametrize("spec", [Latents, Pixels], ids=["latents", "pixels"])
def test_an_edit_that_is_resumed_has_the_same_source(spec, pictures):
    experiment = Experiment(("red disc", "blue ring"), source_prompt=("disc",), method=Back(), batch_size=3, particles=2,
                            representation=spec(images=pictures, rate=0.1), steps=6)  # fmt: skip
    whole, again = Run(experiment, coloured_shapes(8)), Run(experiment, coloured_shapes(8))
    for _ in range(3):
        whole.advance()
    again.load({k: v.detach().clone() for k, v in whole.tensors().items()}, 3)
    for _ in range(3):
        a, b = whole.advance(), again.advance()
        assert torch.equal(a.sample.source.x0, b.sample.source.x0) and torch.equal(
            a.gradient, b.gradient
        )
        assert torch.equal(a.sample.x0, b.sample.x0)


def test_one_source_text_serves_all_prompts_and_keeps_away_from_the_negative():
    experiment = Experiment(("red disc", "blue ring"), source_prompt=("disc",), negative_prompt="green", perp_neg=0.5, denoise_steps=2,
                            method=Back(), steps=1)  # fmt: skip
    run = Run(experiment, coloured_shapes(8))
    conditions = run.advance().sample.source.conditions
    assert (
        torch.equal(conditions.pos.data, run.prior.condition(["disc"] * 2).data)
        and conditions.denoise_steps == 2
    )
    assert torch.equal(conditions.perp_neg[0][0].data, run.prior.condition(["green"] * 2).data)
    assert worst(conditions.perp_neg[0][1], f64([0.5, 0.5])) == 0


def test_without_a_source_text_there_is_no_source():
    run = Run(Experiment(("red disc",), method=SDS(5.0), steps=1), coloured_shapes(8))
    assert run.source is None and run.advance().sample.source is None
    with pytest.raises(
        ValueError, match="this method edits: say what the pictures show with --source-prompt"
    ):
        Run(Experiment(("red disc",), method=Back(), steps=1), coloured_shapes(8)).advance()
    with pytest.raises(
        ValueError, match="source must be one text for all or one for each of the 3 prompts"
    ):
        Experiment(("a", "b", "c"), source_prompt=("x", "y"))


# the law of control variates


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_identity_03_the_best_share_of_the_noise_to_subtract(t, c):
    """eps_hat - k eps has deviation |sigma^2 / (alpha^2 C + sigma^2) - k| over the noise; SDS is k = 1, plain SJC k = 0."""
    prior = GaussianMixture(f64([[0.3]]), f64([c**0.5]))
    n = 64
    eps = normal(n, 1)
    eps = (eps - eps.mean()) / eps.std(correction=0)  # exact moments, so the law is exact
    s = drawn(SD, f64([[1.2]]).expand(n, 1), t, eps, classes(n, (1.0,), (1.0,)))
    alpha, sigma = float(SD.alpha(s.t)[0]), float(SD.sigma(s.t)[0])
    best = sigma**2 / (alpha**2 * c + sigma**2)
    plain, sds = SJC(1.0, var_red=False)(prior, s, FREE), SDS(1.0)(prior, s, FREE)
    for share in (0.0, 0.5, best, 1.0):
        assert abs(float((plain - share * s.eps).var(correction=0)) - (best - share) ** 2) < 1e-12
    assert abs(float(sds.var(correction=0)) - (1 - best) ** 2) < 1e-12
    assert (float(sds.var()) < float(plain.var())) == (sigma**2 > alpha**2 * c)
    if c == 1.0 and t in (0.05, 0.9):  # the figures of the schedule of Stable Diffusion
        conditions = {0.05: (0.905, 0.002), 0.9: (0.000, 0.972)}[t]
        assert (
            worst(
                torch.stack([sds.var(correction=0), plain.var(correction=0)]), f64(list(conditions))
            )
            < 1e-3
        )
