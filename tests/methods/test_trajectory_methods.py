"""Methods that follow a trajectory from x: MSD, JSD, Consistent3D and SegmentDreamer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from tiny_pipeline import (
    class_conditions,
    f64,
    make_inputs,
    max_difference,
    normal,
    row_rng,
)
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.cached_targets import CachedTargets
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.consistent3d import Consistent3D
from limbeck.methods.jsd import JSD
from limbeck.methods.msd import MSD
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.methods.segment_dreamer import SegmentDreamer
from limbeck.priors.exact import GaussianMixture

SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
NO_STATE = Stateless()


def mixture(schedule=SD) -> GaussianMixture:
    return GaussianMixture(normal(3, 2, seed=1), f64([0.3, 0.4, 0.5]), schedule=schedule)


def gaussian(std: float, schedule=SD) -> GaussianMixture:
    return GaussianMixture(f64([[0.4, -0.2]]), f64([std]), schedule=schedule)


def inputs_of(prior: GaussianMixture, x: Tensor, t: float, eps: Tensor | None = None) -> StepInputs:
    rows, count = len(x), len(prior.means)
    conditions = class_conditions(rows, (1.0,) * count, (1.0,) * count)
    eps = normal(*x.shape, seed=9) if eps is None else eps
    inputs = make_inputs(prior.schedule, x, t, eps, conditions)
    return replace(inputs, rng=row_rng(rows))


def smoothed_log_density(prior: GaussianMixture, x: Tensor, h: float) -> Tensor:
    variance = prior.stds**2 + h**2
    squares = (x[:, None] - prior.means).square().sum(2) / variance
    return (-0.5 * squares - prior.means.shape[1] / 2 * variance.log()).logsumexp(1)


def lambda_of(prior: GaussianMixture, t: float) -> float:
    time = prior.schedule.snap(f64([t]))
    return float(prior.schedule.sigma(time) / prior.schedule.alpha(time))


@every_schedule
@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_identity_34_mean_shift_is_the_score_of_the_smoothed_density(schedule, t) -> None:
    prior, x = mixture(schedule), normal(5, 2, seed=4).requires_grad_()
    h = lambda_of(prior, t)
    score = torch.autograd.grad(smoothed_log_density(prior, x, h).sum(), x)[0]
    direction = MSD(1.0)(prior, inputs_of(prior, x.detach(), t), NO_STATE)
    assert max_difference(direction, -h * score) < 1e-10


def test_identity_34_drawn_samples_have_the_mean() -> None:
    prior, count = mixture(), 6000
    x = f64([[0.3, 0.1]]).expand(count, 2)
    inputs = inputs_of(prior, x, 0.5)
    mean = MSD(1.0)(prior, inputs, NO_STATE)
    drawn = MSD(1.0, sampler_steps=40)(prior, inputs, NO_STATE)
    error = drawn.std(0) / count**0.5
    assert bool(((drawn.mean(0) - mean[0]).abs() < 4 * error + 0.02 * mean[0].abs()).all())
    assert bool((drawn.std(0) > 0.1).all())  # several modes are within the window


def test_identity_34_only_several_modes_tell_mean_shift_from_sds() -> None:
    def means(prior: GaussianMixture) -> tuple[Tensor, Tensor]:
        x = f64([[0.3, 0.2]]).expand(20_000, 2)
        inputs = inputs_of(prior, x, 0.25)
        sds = SDS(1.0)(prior, inputs, NO_STATE) + inputs.eps  # eps has mean zero
        return sds.mean(0), MSD(1.0)(prior, inputs, NO_STATE)[0]

    sds, msd = means(gaussian(0.7))
    assert max_difference(sds, msd) < 0.02
    sds, msd = means(GaussianMixture(f64([[-1.2, 0.0], [1.2, 0.0]]), f64([0.1, 0.1])))
    assert max_difference(sds, msd) > 0.1


@every_schedule
def test_identity_35_jsd_without_its_second_term_is_sdi(schedule) -> None:
    """Bit by bit, in float32 and float64, with and without fresh noise in the inversion."""
    prior = mixture(schedule)
    for dtype, eta in ((torch.float32, 0.3), (torch.float64, 0.3), (torch.float64, 0.0)):
        inputs = inputs_of(prior, normal(3, 2, seed=2, dtype=dtype), 0.6)
        state = CachedTargets(SetupContext(3, 1, 0, inputs.x0))
        sdi = SDI(2.0, inversion_guidance=-2.0, inversion_eta=eta)(prior, inputs, state)
        jsd = JSD(2.0, 0.0, -2.0, inversion_eta=eta)(prior, inputs, NO_STATE)
        assert torch.equal(jsd, sdi)
        both = JSD(2.0, 1.0, -2.0, inversion_eta=eta)(prior, inputs, NO_STATE)
        assert max_difference(both, sdi) > 1e-3


def test_the_second_term_of_jsd_noises_the_first_prediction_anew() -> None:
    prior = mixture()
    inputs = inputs_of(prior, normal(3, 2, seed=2), 0.6)
    first, both = (JSD(2.0, k, -2.0)(prior, inputs, NO_STATE) for k in (0.0, 1.0))
    scale = lambda_of(prior, 0.6)
    x0_hi = inputs.x0 - scale * first
    xt = SD.add_noise(x0_hi, inputs.eps, inputs.t)
    x0_lo = guided_prediction(prior, xt, inputs.t, inputs.conditions, 2.0).x0
    assert max_difference(both - first, (inputs.x0 - x0_lo) / scale) < 1e-10


@every_schedule
def test_identity_36_consistent3d_is_a_difference_of_two_predictions(schedule) -> None:
    prior = mixture(schedule)
    inputs = inputs_of(prior, normal(3, 2, seed=2), 0.4)
    same_time = Consistent3D(3.0, 0.0, 0.0)(prior, inputs, NO_STATE)
    assert max_difference(same_time, 0 * inputs.x0) < 1e-9
    method = Consistent3D(3.0, 0.2, 0.2)
    y, t = inputs.conditions, method.later_time(inputs)
    assert max_difference(t, schedule.snap(f64([0.6] * 3))) < 1e-6
    xt = schedule.add_noise(inputs.x0, inputs.eps, t)
    at_t = guided_prediction(prior, xt, t, y, 3.0)
    x_prev = schedule.add_noise(at_t.x0, at_t.eps, inputs.t)
    at_prev = guided_prediction(prior, x_prev, inputs.t, y, 3.0)
    expected = (at_prev.x0 - at_t.x0) / lambda_of(prior, 0.4)
    assert max_difference(method(prior, inputs, NO_STATE), expected) < 1e-9


@pytest.mark.parametrize("std", [0.3, 0.7, 2.0])
def test_identity_36_mean_of_consistent3d_on_a_gaussian(std: float) -> None:
    prior, count, t = gaussian(std), 20_000, 0.4
    x = f64([[1.4, 0.8]]).expand(count, 2)
    inputs = inputs_of(prior, x, t)
    direction = Consistent3D(1.0, 0.2, 0.2)(prior, inputs, NO_STATE)
    late, early, c = lambda_of(prior, t + 0.2), lambda_of(prior, t), std**2
    expected = (x[0] - prior.means[0]) * c * (late - early) / ((c + late**2) * (c + early**2))
    error = direction.std(0) / count**0.5
    assert bool(((direction.mean(0) - expected).abs() < 4 * error + 1e-9).all())


@dataclass(frozen=True)
class AtTheEdge(SegmentDreamer):
    """SegmentDreamer whose split is the edge of the segment."""

    name = "at-the-edge"

    def times(self, inputs: StepInputs) -> tuple[Tensor, Tensor, Tensor]:
        edge, _, t = super().times(inputs)
        return edge, edge, t


@every_schedule
def test_identity_37_segment_dreamer_at_the_edge_is_one_bracket(schedule) -> None:
    prior, s = mixture(schedule), 3.0
    inputs = inputs_of(prior, normal(3, 2, seed=2), 0.7)
    edge, _, t = AtTheEdge(s).times(inputs)
    x_e = schedule.add_noise(inputs.x0, inputs.eps, edge)
    at_e = guided_prediction(prior, x_e, edge, inputs.conditions, 0.0)
    xt = schedule.add_noise(at_e.x0, at_e.eps, t)
    at_t = guided_prediction(prior, xt, t, inputs.conditions, s)
    x_e_cond = schedule.add_noise(at_t.x0, at_t.eps, edge)
    direction = AtTheEdge(s)(prior, inputs, NO_STATE)
    assert max_difference(direction, s * (x_e - x_e_cond)) < 1e-9


def test_identity_37_segment_dreamer_vanishes_with_its_segments() -> None:
    """Prompt and null agree, so that the way back is the way there."""
    prior = mixture(RectifiedFlowSchedule())

    def size(segments: int) -> float:
        inputs = inputs_of(prior, normal(64, 2, seed=2), 0.5 + 0.9 / segments)
        method = SegmentDreamer(1.0, segments, 0.5 / segments, 0.1 / segments)
        return method(prior, inputs, NO_STATE).norm().item()

    # the error of a DDIM step is of second order, and so is a way of few of them
    sizes = [size(segments) for segments in (8, 16, 32)]
    assert sizes[0] > 1.8 * sizes[1] > 3.2 * sizes[2] > 0


def test_times_of_segments() -> None:
    prior = mixture()
    x = normal(6, 2)
    inputs = replace(inputs_of(prior, x, 0.5), t=f64([0.02, 0.2, 0.26, 0.6, 0.98, 1.0]))
    edge, split, t = SegmentDreamer().times(replace(inputs, drawn_t=None))
    assert max_difference(edge, f64([0, 0, 0.25, 0.5, 0.75, 0.75])) < 2e-3
    assert max_difference(t, f64([0.08, 0.2, 0.33, 0.6, 0.98, 1.0])) < 2e-3
    assert bool(((split >= edge + 0.009) & (split <= t - 0.009)).all())


@pytest.mark.parametrize(
    ("method", "calls", "rows"),
    [
        (MSD(), 1, 2),
        (MSD(sampler_steps=5), 5, 10),
        (MSD(1.0), 1, 1),
        (JSD(), 8, 16),
        (JSD(k=0.0), 7, 14),
        (Consistent3D(), 2, 4),
        (SegmentDreamer(), 4, 5),
    ],
)
def test_passes(method, calls: int, rows: int) -> None:
    prior = mixture()
    inputs = inputs_of(prior, normal(3, 2), 0.55)
    before = prior.call_counter.calls, prior.call_counter.rows
    method(prior, inputs, NO_STATE)
    counted = prior.call_counter.calls - before[0], prior.call_counter.rows - before[1]
    assert counted == (calls, 3 * rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MSD(sampler_steps=0), "sampler_steps must be at least 1, not 0"),
        (lambda: JSD(k=-1.0), "k must not be negative, not -1.0"),
        (lambda: Consistent3D(min_interval=0.4), "0 <= min_interval <= max_interval <= 1"),
        (lambda: SegmentDreamer(min_interval=0.3), "min_interval must be in"),
        (lambda: SegmentDreamer(margin=0.05), "margin must be in"),
    ],
)
def test_options_are_checked(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
