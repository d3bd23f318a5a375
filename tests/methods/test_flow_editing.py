"""DDS with eta, DVRF, FlowEdit and FlowAlign against closed-form velocities of a mixture."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_pipeline import class_conditions, f64, make_inputs, max_difference, normal, row_rng

from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand
from limbeck.distillation.batching import draw_candidates
from limbeck.distillation.flow import euler_step, flow_time
from limbeck.distillation.inputs import EditSource
from limbeck.distillation.state import Stateless
from limbeck.distillation.timesteps.deterministic import TrailingTimesteps
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.dds import DDS
from limbeck.methods.dvrf import DVRF
from limbeck.methods.flow_align import FlowAlign
from limbeck.methods.flow_edit import FlowEdit
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

FLOW, SHIFTED = RectifiedFlowSchedule(), RectifiedFlowSchedule(shift=3.0)
SCHEDULES = [FLOW, SHIFTED, CosineSchedule(), stable_diffusion_schedule()]
NULL, TARGET, SOURCE = (1.0, 1.0, 1.0), (0.1, 0.2, 0.7), (0.8, 0.1, 0.1)
MEANS, STDS = normal(3, 4, seed=1), f64([0.3, 0.6, 1.0])
NO_STATE = Stateless()
STEP, STEPS = 17, 50
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", [0.03, 0.5, 0.97])


def velocity(z, u, *classes):
    """E[eps - x | z] of z = (1 - u) x + u eps by Bayes' rule, for each choice of class weights."""
    found = []
    for weights in classes:
        prior = f64(list(weights)) / sum(weights)
        scale = (1 - u) ** 2 * STDS**2 + u**2
        offset = z[:, None] - (1 - u) * MEANS
        log_p = prior.log() - 2 * scale.log() - offset.square().sum(-1) / (2 * scale)
        share = log_p.softmax(1)[..., None]
        x = (share * (MEANS + ((1 - u) * STDS**2 / scale)[:, None] * offset)).sum(1)
        found.append((z - (1 - u) * x) / u - x)
    return found


def guided(z, u, null, pos, scale):
    v_null, v_pos = velocity(z, u, null, pos)
    return v_null + scale * (v_pos - v_null)


def mixture(schedule) -> GaussianMixture:
    return GaussianMixture(MEANS, STDS, schedule=schedule)


def edit_step(schedule, t, **changes):
    inputs = make_inputs(
        schedule,
        normal(5, 4, seed=2),
        t,
        normal(5, 4, seed=3),
        class_conditions(5, NULL, TARGET),
    )
    source = EditSource(normal(5, 4, seed=4), class_conditions(5, NULL, SOURCE))
    return replace(inputs, source=source, step=STEP, steps=STEPS, **changes)


def as_flow(s):
    """x, x_source, eps and u of a step."""
    return s.x0, s.source.x0, s.eps, float(flow_time(s.schedule, s.t)[0])


@pytest.mark.parametrize("schedule", [FLOW, SHIFTED], ids=["flow", "shifted"])
@every_time
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_dvrf_on_flows(schedule, t, eta):
    s = edit_step(schedule, t)
    x, x_source, eps, u = as_flow(s)
    eta_i = eta * STEP / STEPS
    z = (1 - u) * x + u * eps + eta_i * u * (x - x_source)
    z_source = (1 - u) * x_source + u * eps
    expected = guided(z, u, NULL, TARGET, 16.5) - guided(z_source, u, NULL, SOURCE, 6.0)
    expected = expected + (1 - eta_i) * (x - x_source)
    result = DVRF(16.5, 6.0, eta)(mixture(schedule), s, NO_STATE)
    assert max_difference(result, expected) < 1e-12 * max(1.0, float(expected.abs().max()))


@every_schedule
@every_time
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_identity_38_dds_with_eta_is_dvrf_in_eps(schedule, t, eta):
    s, prior = edit_step(schedule, t), mixture(schedule)
    u = flow_time(schedule, s.t)
    dds = DDS(6.0, eta)(prior, s, NO_STATE)
    dvrf = DVRF(6.0, 6.0, eta * STEPS / STEP)(prior, s, NO_STATE)
    scale = expand(1 - u, dds)
    assert max_difference(dds, scale * dvrf) < 1e-12 * max(1.0, float(dds.abs().max()))


@every_schedule
@every_time
def test_identity_38_flowedit_is_the_other_end(schedule, t):
    s, prior = edit_step(schedule, t), mixture(schedule)
    flowedit = FlowEdit(6.0, 6.0)(prior, s, NO_STATE)
    rate = expand(euler_step(s) / (1 - flow_time(schedule, s.t)), s.x0)
    expected = rate * DDS(6.0, eta=1.0)(prior, s, NO_STATE)
    assert max_difference(flowedit, expected) < 1e-12 * max(1.0, float(expected.abs().max()))
    dds = rate * DDS(6.0)(prior, s, NO_STATE)
    assert max_difference(flowedit, dds) > 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("schedule", [FLOW, SHIFTED], ids=["flow", "shifted"])
@every_time
def test_dds_without_eta_is_a_difference_of_two_predictions(schedule, t):
    """Both at the drawn eps, eps_hat = z + (1 - u) v."""
    s = edit_step(schedule, t)
    x, x_source, eps, u = as_flow(s)
    z, z_source = ((1 - u) * x0 + u * eps for x0 in (x, x_source))
    target = z + (1 - u) * guided(z, u, NULL, TARGET, 7.5)
    expected = target - (z_source + (1 - u) * guided(z_source, u, NULL, SOURCE, 7.5))
    found = DDS(7.5)(mixture(schedule), s, NO_STATE)
    assert max_difference(found, expected) < 1e-12 * max(1.0, float(expected.abs().max()))


def test_eta_has_no_effect_at_the_source():
    """There the noise is that of DDS."""
    s, prior = edit_step(FLOW, 0.5), mixture(FLOW)
    at_source = replace(s, x0=s.source.x0)
    same = [DDS(7.5, eta)(prior, at_source, NO_STATE) for eta in (0.0, 0.5, 1.0)]
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])


@pytest.mark.parametrize("method", [DDS(7.5, 0.7), DVRF(5.0, 5.0), FlowEdit(5.0, 5.0)], ids=repr)
@every_schedule
def test_nothing_moves_at_the_source_under_its_own_prompt(method, schedule):
    s = edit_step(schedule, 0.6)
    s = replace(s, x0=s.source.x0, conditions=s.source.conditions)
    assert max_difference(method(mixture(schedule), s, NO_STATE), torch.zeros(5, 4)) == 0


def test_pure_noise_has_a_finite_direction():
    """At t = 1 alpha is 0, and eps_hat - eps divided by it would not be finite."""
    s, prior = edit_step(FLOW, 1.0), GaussianMixture(MEANS, STDS, schedule=FLOW)
    for method in (DVRF(), FlowEdit(), FlowAlign()):
        assert bool(method(prior, s, NO_STATE).isfinite().all())


@pytest.mark.parametrize("schedule", [FLOW, SHIFTED], ids=["flow", "shifted"])
@every_time
def test_flow_align_on_flows(schedule, t):
    s = edit_step(schedule, t)
    x, x_source, eps, u = as_flow(s)
    q = (1 - u) * x_source + u * eps
    p = x + q - x_source
    v_p, (v_q,) = guided(p, u, SOURCE, TARGET, 13.5), velocity(q, u, SOURCE)
    end = float(schedule.sigma(s.t * (STEPS - STEP - 1) / (STEPS - STEP))[0])
    expected = (u - end) * (v_p - v_q) + 0.01 * ((p - u * v_p) - (q - u * v_q))
    result = FlowAlign()(mixture(schedule), s, NO_STATE)
    assert max_difference(result, expected) < 1e-12 * max(1.0, float(expected.abs().max()))


@every_schedule
def test_identity_53_flow_align_without_its_pull_is_flowedit_from_the_source_prompt(schedule):
    s, prior = edit_step(schedule, 0.6), mixture(schedule)
    y = replace(s.conditions, null=s.source.conditions.pos)
    expected = FlowEdit(5.0, 1.0)(prior, replace(s, conditions=y), NO_STATE)
    assert max_difference(FlowAlign(5.0, zeta=0.0)(prior, s, NO_STATE), expected) < 1e-12
    still = replace(s, x0=s.source.x0, conditions=s.source.conditions)
    assert max_difference(FlowAlign(5.0)(prior, still, NO_STATE), torch.zeros(5, 4)) < 1e-14


@pytest.mark.parametrize("method", [FlowEdit(4.0, 1.5), FlowAlign(4.0)], ids=["edit", "align"])
def test_a_run_is_the_euler_solver_on_the_grid_of_the_sampler(method):
    """u falls as sigma of t_start (N - i) / N with the timestep shift, and ends at 0."""
    steps, start = 6, 0.66
    experiment = Experiment(
        ("red disc",),
        source_prompt=("blue ring",),
        method=method,
        representation=Latents(lr=1.0),
        timesteps=TrailingTimesteps(start),
        weight=UniformWeight(),
        optimizer=SGD(),
        steps=steps,
        particles=3,
    )
    prior = colored_shapes(6, schedule=SHIFTED)
    run, particles = Run(experiment, prior), torch.arange(3)

    def render():
        image = run.representation.render(RenderRequest(particles)).image
        return image.detach().double().clone()

    x_source = x = render()
    times = [start * (steps - i) / steps for i in range(steps + 1)]
    u = [3 * t / (1 + 2 * t) for t in times]
    for i in range(steps):
        inputs = run.advance().inputs
        assert float(inputs.t[0]) == pytest.approx(times[i], abs=1e-6)
        y, y_source = inputs.conditions, inputs.source.conditions
        eps = inputs.eps.double()
        q = (1 - u[i]) * x_source + u[i] * eps
        p = x + q - x_source

        def v(z, condition, i=i):
            prediction = prior(z, torch.full((3,), times[i]).double(), condition)[0]
            return (z - prediction.x0) / u[i]

        if isinstance(method, FlowEdit):
            v_p = v(p, y.null) + 4.0 * (v(p, y.pos) - v(p, y.null))
            v_q = v(q, y.null) + 1.5 * (v(q, y_source.pos) - v(q, y.null))
            pull = 0.0
        else:
            v_p = v(p, y_source.pos) + 4.0 * (v(p, y.pos) - v(p, y_source.pos))
            v_q = v(q, y_source.pos)
            pull = 0.01 * ((q - u[i] * v_q) - (p - u[i] * v_p))
        x = x + (u[i + 1] - u[i]) * (v_p - v_q) + pull
    assert max_difference(render(), x) < 1e-5


def test_the_euler_steps_of_a_run_add_up_to_the_whole_way():
    """On a discrete schedule too, whose smallest time still has noise."""
    for schedule in SCHEDULES:
        total = 0.0
        for step in range(12):
            t = torch.full((5,), 0.9 * (12 - step) / 12, dtype=torch.float64)
            s = replace(edit_step(schedule, t), step=step, steps=12)
            total += float(euler_step(s)[0])
        start = flow_time(schedule, torch.tensor([0.9], dtype=torch.float64))
        assert total == pytest.approx(float(start), abs=1e-12)


@pytest.mark.parametrize(("t_start", "steps"), [(0.85, 40), (0.66, 28), (0.7, 30), (1.0, 50)])
def test_the_euler_steps_of_a_run_meet_on_a_discrete_schedule(t_start, steps):
    timesteps, schedule, total = TrailingTimesteps(t_start), stable_diffusion_schedule(), 0.0
    for step in range(steps):
        t = timesteps(step, steps, 5, schedule, row_rng(5, step=step))
        s = replace(edit_step(schedule, schedule.snap(t)), step=step, steps=steps, exact_t=t)
        total += float(euler_step(s)[0])
    start = flow_time(schedule, schedule.snap(torch.tensor([t_start])))
    assert total == pytest.approx(float(start), abs=1e-6)


def solve(method, prior, source, t_start, steps):
    """The particles after each step of a run of SGD at learning rate 1 and w = 1, in float64."""
    x, found = source.x0, []
    for i in range(steps):
        t = t_start * (steps - i) / steps
        eps = normal(5, 4, seed=100 + i)
        s = make_inputs(prior.schedule, x, t, eps, class_conditions(5, NULL, TARGET))
        s = replace(s, source=source, step=i, steps=steps, rng=row_rng(5, step=i))
        x = x - method(prior, s, NO_STATE)
        found.append(x)
    return found


def a_source() -> EditSource:
    return EditSource(normal(5, 4, seed=4), class_conditions(5, NULL, SOURCE))


def test_one_noise_and_no_sampling_are_bitwise_the_formula():
    s, prior = edit_step(SHIFTED, 0.5), mixture(SHIFTED)
    method = FlowEdit()
    assert (method.num_noises, method.sampling_steps) == (1, 0)
    delta = method.delta_velocity(prior, s, 1.0)
    assert torch.equal(method(prior, s, NO_STATE), expand(euler_step(s), delta) * delta)


@pytest.mark.parametrize("schedule", [FLOW, SHIFTED], ids=["flow", "shifted"])
@every_time
def test_flow_edit_averages_over_its_noises(schedule, t):
    s = edit_step(schedule, t)
    x, x_source, eps, u = as_flow(s)
    end = float(schedule.sigma(s.t * (STEPS - STEP - 1) / (STEPS - STEP))[0])
    noises = draw_candidates(s, 3).eps.unflatten(0, (3, 5))
    assert torch.equal(noises[0], eps)
    assert max_difference(noises[0], noises[1]) > 1 and max_difference(noises[1], noises[2]) > 1
    expected = torch.zeros_like(x)
    for noise in noises:
        z_source = (1 - u) * x_source + u * noise
        z = x + z_source - x_source
        v = guided(z, u, NULL, TARGET, 13.5) - guided(z_source, u, NULL, SOURCE, 3.5)
        expected += (u - end) * v / 3
    prior = mixture(schedule)
    result = FlowEdit(num_noises=3)(prior, s, NO_STATE)
    assert max_difference(result, expected) < 1e-12 * max(1.0, float(expected.abs().max()))
    assert (prior.call_counter.calls, prior.call_counter.rows) == (2, 4 * 3 * 5)


@every_schedule
@pytest.mark.parametrize("sampling", [1, 3, 8])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_last_steps_of_flow_edit_sample_from_z_target(schedule, sampling, guidance):
    """As in the authors' code: the edit, then the path of z_target = x + z_source - x_source."""
    steps, t_start, source = 8, 0.8, a_source()  # multiples of a tick
    times = [schedule.snap(f64([t_start * (steps - i) / steps])) for i in range(steps)]
    u = [float(flow_time(schedule, t)) for t in times] + [0.0]
    x = z = source.x0
    for i in range(steps):
        if i < steps - sampling:
            z_source = (1 - u[i]) * source.x0 + u[i] * normal(5, 4, seed=100 + i)
            v = guided(x + z_source - source.x0, u[i], NULL, TARGET, guidance)
            x = x + (u[i + 1] - u[i]) * (v - guided(z_source, u[i], NULL, SOURCE, 2.0))
            continue
        if i == steps - sampling:
            noise = row_rng(5, step=i).normal("sampling", 4).double()
            z = x + (1 - u[i]) * source.x0 + u[i] * noise - source.x0
        z = z + (u[i + 1] - u[i]) * guided(z, u[i], NULL, TARGET, guidance)
    method = FlowEdit(guidance, 2.0, sampling_steps=sampling)
    result = solve(method, mixture(schedule), source, t_start, steps)[-1]
    assert max_difference(result, z) < 1e-10


def test_a_run_that_only_samples_from_noise_has_forgotten_its_source():
    """From u = 1 z_target is the noise alone, and the result is a sample of the prompt."""
    sources = [a_source(), replace(a_source(), x0=normal(5, 4, seed=9))]
    method = FlowEdit(1.0, 1.0, sampling_steps=30)
    ends = [solve(method, mixture(FLOW), source, 1.0, 30)[-1] for source in sources]
    assert max_difference(*ends) < 1e-12
    edits = [solve(FlowEdit(1.0, 1.0), mixture(FLOW), source, 1.0, 30)[-1] for source in sources]
    assert max_difference(*edits) > 0.1
    # between editing and sampling the particle carries no noise that a preview would show
    paths = solve(FlowEdit(1.0, 1.0, sampling_steps=15), mixture(FLOW), sources[0], 1.0, 30)
    jumps = [max_difference(a, b) for a, b in pairwise(paths)]
    assert jumps[14] < 3 * max(jumps[:14])


def run_of_method(method, steps: int):
    return Experiment(
        ("red disc",),
        source_prompt=("blue ring",),
        method=method,
        representation=Latents(lr=1.0),
        timesteps=TrailingTimesteps(0.66),
        weight=UniformWeight(),
        optimizer=SGD(),
        steps=steps,
        particles=3,
    )


@pytest.mark.parametrize(
    ("guidance", "source_guidance", "rows"),
    [(4.0, 2.0, 4), (1.0, 2.0, 3), (4.0, 1.0, 3), (1.0, 1.0, 2), (4.0, 0.0, 3), (0.0, 1.0, 2)],
)
@pytest.mark.parametrize("num_noises", [1, 3])
def test_passes_of_velocity_editing(guidance, source_guidance, rows, num_noises):
    """Both predictions are a call of their own; a guidance of 1 or 0 saves a pass of its own."""
    prior = colored_shapes(6)
    flow_edit = FlowEdit(guidance, source_guidance, num_noises, sampling_steps=1)
    run = Run(run_of_method(flow_edit, 3), prior)
    counts = []
    for _ in range(3):
        before = prior.call_counter.calls, prior.call_counter.rows
        run.advance()
        counts.append((prior.call_counter.calls - before[0], prior.call_counter.rows - before[1]))
    sampling = (1, 3 * (1 if guidance in (0, 1) else 2))
    assert counts == [(2, 3 * rows * num_noises)] * 2 + [sampling]
    before = prior.call_counter.calls, prior.call_counter.rows
    Run(run_of_method(DVRF(guidance, source_guidance), 1), prior).advance()
    calls, found = prior.call_counter.calls - before[0], prior.call_counter.rows - before[1]
    assert (calls, found) == (2, 3 * rows)


def test_noises_and_sampling_steps_have_ranges():
    with pytest.raises(ValueError, match=r"method.num_noises must be at least 1, not 0"):
        run_of_method(FlowEdit(num_noises=0), 3)
    with pytest.raises(ValueError, match=r"method.sampling_steps must be at least 0, not -1"):
        run_of_method(FlowEdit(sampling_steps=-1), 3)
    message = r"method.sampling_steps must be at most 3, the steps of the run, not 4"
    with pytest.raises(ValueError, match=message):
        run_of_method(FlowEdit(sampling_steps=4), 3)
    run_of_method(FlowEdit(sampling_steps=3), 3)
