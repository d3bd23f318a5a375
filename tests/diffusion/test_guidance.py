"""Classifier-free guidance, Perp-Neg, multi-step predictions, and their cost in each method."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mixture_inputs import (
    GREEN,
    NEGATIVES,
    NULL_AND_POS,
    SCHEDULES,
    five_rows,
    mixture,
    perp_neg_conditions,
)
from tiny_pipeline import (
    class_conditions,
    count_calls,
    f64,
    max_difference,
    normal,
    prompt_conditions,
)

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import (
    apply_guidance,
    denoise_multistep,
    guided_prediction,
    required_conditions,
)
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.inputs import EditSource, SetupContext
from limbeck.distillation.projections.identity import IdentityProjection
from limbeck.distillation.state import Stateless
from limbeck.distillation.weights import LambdaWeight, UniformWeight
from limbeck.methods.asd import ASD
from limbeck.methods.bridge import Bridge
from limbeck.methods.csd import CSD
from limbeck.methods.esd import ESD
from limbeck.methods.hifa import HiFA
from limbeck.methods.irfds import IRFDS
from limbeck.methods.ism import ISM
from limbeck.methods.lmc import LMC
from limbeck.methods.repulsive import Repulsive
from limbeck.methods.reward_sds import RewardSDS
from limbeck.methods.rfds import RFDS
from limbeck.methods.rfds_rev import RFDSRev
from limbeck.methods.sds import SDS
from limbeck.methods.sjc import SJC
from limbeck.methods.stable_sd import StableSD
from limbeck.methods.svgd import SVGD
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", [0.03, 0.5, 0.97])


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
@pytest.mark.parametrize("negatives", [NEGATIVES[:1], NEGATIVES], ids=["one", "two"])
@pytest.mark.parametrize("shape", [(6,), (3, 4, 4)])
def test_identity_56_perp_neg_equals_its_formula(scale, negatives, shape):
    predictions = [
        Prediction(normal(5, *shape, seed=2 * i), normal(5, *shape, seed=2 * i + 1))
        for i in range(2 + len(negatives))
    ]
    null, pos, *negs = (prediction.eps.numpy() for prediction in predictions)
    expected = torch.from_numpy(perp_neg(null, pos, negs, [w for _, w in negatives], scale))
    guided = apply_guidance(perp_neg_conditions(5, *negatives), predictions, scale)
    assert max_difference(guided.eps, expected) < 1e-11


@every_schedule
@every_time
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_perp_neg_keeps_x0_and_eps_consistent(schedule, t, scale):
    """The weights sum to 1, so what is linear in each prediction holds for the sum."""
    prior = mixture(schedule)
    s = five_rows(schedule, t, perp_neg_conditions(5, *NEGATIVES))
    prediction = guided_prediction(prior, s.xt, s.t, s.conditions, scale)
    xt = schedule.add_noise(prediction.x0, prediction.eps, s.t)
    assert max_difference(xt, s.xt) < 1e-10


@every_time
def test_perp_neg_with_weight_zero_is_classifier_free_guidance(t):
    prior, s = mixture(), five_rows(t=t)
    conditions = perp_neg_conditions(5, (GREEN, [0.0] * 5))
    for scale in (0.0, 1.0, 7.5):
        with_negative = guided_prediction(prior, s.xt, s.t, conditions, scale).eps
        without = guided_prediction(prior, s.xt, s.t, s.conditions, scale).eps
        assert max_difference(with_negative, without) < 1e-12


@every_time
def test_identity_56_perp_neg_with_the_prompt_as_negative_is_classifier_free_guidance(t):
    prior, s = mixture(), five_rows(t=t)
    conditions = perp_neg_conditions(5, (NULL_AND_POS[1], [2.0] * 5))
    with_negative = guided_prediction(prior, s.xt, s.t, conditions, 7.5).eps
    without = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).eps
    assert max_difference(with_negative, without) < 1e-11


def test_perp_neg_removes_only_what_is_perpendicular_to_the_prompt():
    prior, s = mixture(), five_rows()
    conditions = perp_neg_conditions(5, (GREEN, [1.5] * 5))
    null, pos, neg = prior(s.xt, s.t, *required_conditions(conditions, 7.5))
    d = pos.eps - null.eps
    without = guided_prediction(prior, s.xt, s.t, s.conditions, 1.0).eps
    removed = without - guided_prediction(prior, s.xt, s.t, conditions, 1.0).eps
    assert float((removed * d).sum(1).abs().max()) < 1e-12 < float(removed.abs().max())
    assert float((removed * (neg.eps - null.eps)).sum(1).min()) > 0


def test_perp_neg_removes_the_whole_negative_if_the_prompt_equals_the_null_prompt():
    prior, s = mixture(), five_rows()
    conditions = replace(perp_neg_conditions(5, (GREEN, [1.0] * 5)), pos=s.conditions.null)
    null, _, neg = prior(s.xt, s.t, *required_conditions(conditions, 7.5))
    guided = guided_prediction(prior, s.xt, s.t, conditions, 7.5).eps
    assert max_difference(guided, null.eps - 7.5 * (neg.eps - null.eps)) < 1e-12


def test_perp_neg_rows_are_independent():
    prior, s = mixture(), five_rows(conditions=perp_neg_conditions(5, *NEGATIVES))
    whole = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).eps
    for i in range(5):
        rows = torch.tensor([i])
        alone = guided_prediction(prior, s.xt[rows], s.t[rows], s.conditions[rows], 7.5).eps
        assert max_difference(alone, whole[rows]) < 1e-13


EXACT = ExactCritic()
#: method, rows of the prior per particle and step without and with one Perp-Neg prompt, calls
COST = [
    (SDS(7.5), 2, 3, 1),
    (SJC(7.5), 2, 3, 1),
    (CSD(), 2, 3, 1),
    (StableSD(), 2, 3, 1),
    (LMC(7.5, IdentityProjection()), 2, 3, 1),
    (ASD(7.5), 3, 4, 2),
    (HiFA(7.5, 4), 8, 12, 4),
    (Bridge(7.5), 2, 3, 1),
    (VSD(7.5, critic=EXACT), 2, 3, 1),
    (ESD(7.5, critic=EXACT), 2, 3, 1),
    (RFDS(7.5), 2, 3, 1),
    (RFDSRev(7.5), 3, 6, 2),
    (SVGD(7.5), 2, 3, 1),
    (Repulsive(7.5), 2, 3, 1),
    (RewardSDS(7.5, 5), 10, 15, 1),
    (RewardSDS(100.0, 4, reward_steps=3), 24, 36, 3),
    (ISM(7.5, delta_t=0.1, delta_s=0.2, warmup=0.0), 5, 6, 4),
    (SDS(1.0), 1, 3, 1),
    (SDS(0.0), 1, 1, 1),
]


@pytest.mark.parametrize(
    ("method", "rows", "perp_neg_rows", "calls"),
    COST,
    ids=lambda v: type(v).__name__ if not isinstance(v, int) else "",
)
def test_identity_29_every_method_costs_what_its_formula_needs(method, rows, perp_neg_rows, calls):
    labels = ("red", "green", "blue")
    prior = GaussianMixture(normal(3, 4, seed=1), f64([0.3, 0.6, 1.0]), labels=labels)
    for expected_rows, conditions in (
        (rows, class_conditions(5, *NULL_AND_POS)),
        (perp_neg_rows, perp_neg_conditions(5, (GREEN, [1.0] * 5))),
    ):
        s = five_rows(t=0.5, conditions=conditions)
        state = method.init(prior, SetupContext(5, 1, 0, s.x0, ("red",)))
        _, cost = count_calls(prior, lambda s=s, state=state: method(prior, s, state))
        assert cost == (calls, 5 * expected_rows)


def test_identity_29_irfds_costs_one_pass():
    prior, s = mixture(), five_rows()
    s = replace(s, source=EditSource(s.eps, s.conditions))
    assert count_calls(prior, lambda: IRFDS()(prior, s, Stateless()))[1] == (1, 5)


@pytest.mark.parametrize("method", [m for m, *_ in COST], ids=lambda m: type(m).__name__)
def test_a_method_states_its_passes_and_cites_its_paper(method):
    assert method.passes and method.bibtex.startswith("@")


def test_perp_neg_in_a_run_uses_the_negative_prompt():
    prior = colored_shapes(8)
    options = {
        "prompts": ("red disc", "blue ring"),
        "negative_prompt": "green",
        "particles": 2,
        "steps": 1,
        "weight": UniformWeight(),
    }
    step = Run(Experiment(method=SDS(5.0), perp_neg=1.5, **options), prior).advance()
    s = step.inputs
    conditions = prompt_conditions(prior, ["red disc", "red disc", "blue ring", "blue ring"])
    negative = prior.condition(["green"] * 4)
    with_perp_neg = replace(conditions, perp_neg=((negative, f64([1.5] * 4)),))
    eps_hat = guided_prediction(prior, s.xt, s.t, with_perp_neg, 5.0).eps
    assert max_difference(step.gradient, eps_hat - s.eps) < 1e-5
    # without Perp-Neg the negative prompt replaces the empty one
    plain = Run(Experiment(method=SDS(5.0), **options), prior).advance()
    eps_hat = guided_prediction(prior, s.xt, s.t, Conditions(conditions.pos, negative), 5.0).eps
    assert max_difference(plain.gradient, eps_hat - s.eps) < 1e-5
    assert max_difference(plain.gradient, step.gradient) > 1e-2


# multi-step predictions


def test_a_prediction_of_one_step_is_unchanged():
    prior, s = mixture(), five_rows()
    prediction = prior(s.xt, s.t, s.conditions.pos)[0]
    result, cost = count_calls(
        prior, lambda: denoise_multistep(prior, prediction, s.xt, s.t, s.conditions, 7.5)
    )
    assert result is prediction and cost == (0, 0)


@every_schedule
@every_time
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(
    "conditions",
    [class_conditions(5, *NULL_AND_POS), perp_neg_conditions(5, *NEGATIVES)],
    ids=["cfg", "perp-neg"],
)
def test_a_prediction_of_k_steps_is_k_ddim_steps(schedule, t, k, conditions):
    prior, s = mixture(schedule), five_rows(schedule, t)
    result, cost = count_calls(
        prior,
        lambda: guided_prediction(prior, s.xt, s.t, replace(conditions, denoise_steps=k), 7.5),
    )
    assert cost == (k, 5 * k * (4 if conditions.perp_neg else 2))
    x, time = s.xt, s.t
    for steps_left in range(k - 1, -1, -1):
        predictions = prior(x, time, *required_conditions(conditions, 7.5))
        p = apply_guidance(conditions, predictions, 7.5)
        if steps_left:
            time = schedule.snap(s.t * steps_left / k)
            x = expand(schedule.alpha(time), x) * p.x0 + expand(schedule.sigma(time), x) * p.eps
    assert max_difference(result.x0, p.x0) < 1e-11
    assert max_difference(schedule.add_noise(result.x0, result.eps, s.t), s.xt) < 1e-10


@every_schedule
@every_time
@pytest.mark.parametrize("k", [1, 2, 4])
def test_identity_12_sds_of_multistep_predictions_is_hifa(schedule, t, k):
    prior, s = mixture(schedule), five_rows(schedule, t)
    conditions = replace(s.conditions, denoise_steps=k)
    sds = SDS(7.5)(prior, replace(s, conditions=conditions), Stateless())
    hifa = HiFA(7.5, k, lambda_rgb=0.0)(prior, s, Stateless())
    assert max_difference(sds, hifa) < 1e-9
    x0 = guided_prediction(prior, s.xt, s.t, conditions, 7.5).x0
    weight = expand(LambdaWeight()(schedule, s.t), sds)
    assert max_difference(weight * sds, s.x0 - x0) < 1e-9


def test_denoise_steps_of_a_run_reach_the_prior():
    prior = colored_shapes(8)
    options = {"particles": 2, "steps": 1}
    sds = Experiment(("red disc",), method=SDS(5.0), denoise_steps=3, **options)
    Run(sds, prior).advance()
    assert (prior.call_counter.calls, prior.call_counter.rows) == (3, 12)
    hifa = Experiment(("red disc",), method=HiFA(5.0, 3, lambda_rgb=0.0), **options)
    a, b = (Run(e, colored_shapes(8)).advance().gradient for e in (sds, hifa))
    assert max_difference(a, b) < 1e-4


def test_vsd_takes_several_steps_with_the_prior_and_one_with_the_critic():
    prior, s = mixture(), five_rows()
    s = replace(s, conditions=replace(s.conditions, denoise_steps=3))
    method = VSD(7.5, critic=EXACT)
    state = method.init(prior, SetupContext(5, 5, 0, s.x0))
    vsd, sds = method(prior, s, state), SDS(7.5)(prior, s, Stateless())
    # the exact critic of a single particle predicts eps
    assert max_difference(vsd, sds) < 1e-11
