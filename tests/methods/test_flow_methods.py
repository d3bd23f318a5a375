"""RFDS, RFDS-Rev and iRFDS: velocities on every schedule, the noise behind a picture, and a rectified flow on the command line."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_pipeline import class_conditions, count_calls, f64, make_inputs, max_difference, normal
from torch import Tensor

from limbeck.cli.main import main
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import EditSource, SetupContext
from limbeck.distillation.noise import PredictedNoise
from limbeck.distillation.state import Stateless
from limbeck.distillation.timesteps.random import UniformTimesteps as UniformTimes
from limbeck.distillation.weights import AlphaSigmaWeight, UniformWeight
from limbeck.methods.irfds import IRFDS
from limbeck.methods.rfds import RFDS
from limbeck.methods.rfds_rev import RFDSRev
from limbeck.methods.sds import SDS
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.priors.loading import load
from limbeck.representations.latents import Latents
from limbeck.representations.noise import NoiseMap
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD, Adam
from limbeck.training.trainer import Run

TIMES = [0.03, 0.2, 0.5, 0.8, 0.97]
FLOW, SD = RectifiedFlowSchedule(), stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), FLOW]
NO_STATE = Stateless()
SHARES = ((1.0, 1.0, 1.0), (0.1, 0.1, 0.8))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_time = pytest.mark.parametrize("t", TIMES)


def mixture(schedule=FLOW, prediction_type="flow") -> GaussianMixture:
    return GaussianMixture(
        normal(3, 4, seed=1),
        f64([0.3, 0.6, 1.0]),
        schedule=schedule,
        prediction_type=prediction_type,
    )


def five_rows(schedule=FLOW, t: Tensor | float = 0.5):
    return make_inputs(
        schedule, normal(5, 4, seed=2), t, normal(5, 4, seed=3), class_conditions(5, *SHARES)
    )


# RFDS


@every_time
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_identity_13_rfds_is_sds_over_one_minus_t(t, scale):
    prior, s = mixture(), five_rows(t=t)
    got = RFDS(scale)(prior, s, NO_STATE)
    assert max_difference(got, SDS(scale)(prior, s, NO_STATE) / (1 - t)) < 1e-10 * (1 + scale)
    velocity = guided_prediction(prior, s.xt, s.t, s.conditions, scale).to_output(
        "flow", 1 - s.t, s.t
    )
    assert max_difference(got, velocity - (s.eps - s.x0)) < 1e-11 * (1 + scale)


@pytest.mark.parametrize("schedule", [SD, CosineSchedule()], ids=lambda s: type(s).__name__)
@every_time
def test_identity_13_on_a_variance_preserving_schedule_the_velocity_is_v(schedule, t):
    prior, s = mixture(schedule), five_rows(schedule, t)
    alpha, sigma = schedule.alpha(s.t), schedule.sigma(s.t)
    v = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).to_output("v", alpha, sigma)
    true = Prediction(s.x0, s.eps).to_output("v", alpha, sigma)
    got = RFDS(7.5)(prior, s, NO_STATE)
    assert max_difference(got, v - true) < 1e-10
    assert max_difference(expand(alpha, got) * got, SDS(7.5)(prior, s, NO_STATE)) < 1e-10


def test_rfds_is_finite_at_t_one():
    prior, s = mixture(), five_rows(t=1.0)
    got = RFDS(7.5)(prior, s, NO_STATE)
    data = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).x0
    assert (
        max_difference(got, s.x0 - data) < 1e-12
    )  # eps_hat is eps there, and the velocities differ by the pictures


def test_identity_13_rfds_run_is_sds_with_weight_one_over_one_minus_t():
    prior = colored_shapes(8, schedule=FLOW, prediction_type="flow")

    def end(method, weight) -> Tensor:
        experiment = Experiment(
            ("red disc",),
            method=method,
            representation=Latents(0.01),
            optimizer=SGD(),
            weight=weight,
            particles=2,
            steps=10,
        )
        run = Run(experiment, prior)
        while run.step < 10:
            run.advance()
        return torch.stack(list(run.representation.particles)).detach()

    flow = end(RFDS(5.0), UniformWeight())
    assert max_difference(flow, end(SDS(5.0), AlphaSigmaWeight(-1.0, 0.0))) < 2e-4
    assert max_difference(flow, end(SDS(5.0), UniformWeight())) > 1e-2


@pytest.mark.parametrize(("guidance", "rows"), [(50.0, 10), (1.0, 5)])
def test_rfds_passes(guidance, rows):
    prior, s = mixture(), five_rows()
    assert count_calls(prior, lambda: RFDS(guidance)(prior, s, NO_STATE))[1] == (1, rows)


# RFDS-Rev


@every_time
def test_identity_13_reversed_noise_is_the_predicted_noise(t):
    prior, s = mixture(), five_rows(t=t)
    prediction = prior(s.xt, s.t, s.conditions.pos)[0]
    velocity = prediction.to_output("flow", 1 - s.t, s.t)
    reversed_noise = s.eps + (1 - t) * (velocity + s.x0 - s.eps)
    assert max_difference(reversed_noise, prediction.eps) < 1e-13
    assert max_difference(PredictedNoise().refine(prior, s), prediction.eps) < 1e-13
    got = RFDSRev(50.0)(prior, s, NO_STATE)
    assert max_difference(got, RFDS(50.0)(prior, replace(s, eps=reversed_noise), NO_STATE)) < 1e-10
    z = FLOW.add_noise(s.x0, prediction.eps, s.t)
    expected = (guided_prediction(prior, z, s.t, s.conditions, 50.0).eps - prediction.eps) / (1 - t)
    assert max_difference(got, expected) < 1e-09


@pytest.mark.parametrize(
    ("guidance", "rev", "rounds", "spent"),
    [(50.0, 1.0, 1, (2, 15)), (1.0, 1.0, 3, (4, 20)), (50.0, 7.5, 2, (3, 30))],
)
def test_rfds_rev_passes(guidance, rev, rounds, spent):
    prior, s = mixture(), five_rows()
    assert (
        count_calls(prior, lambda: RFDSRev(guidance, rev, rounds)(prior, s, NO_STATE))[1] == spent
    )


def test_identity_19_rfds_rev_converges_to_the_noise_of_the_image():
    """On a Gaussian the replacement contracts to (sigma / alpha) C^-1 (x - m), where no direction is left (identity 19)."""
    mean, std, t = f64([0.4, -0.3]), 0.8, 0.3
    prior = GaussianMixture(mean[None], f64([std]), schedule=FLOW)
    s = make_inputs(
        FLOW, normal(4, 2, seed=2), t, normal(4, 2, seed=3), class_conditions(4, (1.0,), (1.0,))
    )
    result = PredictedNoise(iterations=60).refine(prior, s)
    expected = t / (1 - t) * (s.x0 - mean) / std**2
    assert max_difference(result, expected) < 1e-09
    assert max_difference(RFDSRev(1.0, iterations=60)(prior, s, NO_STATE), torch.zeros(4, 2)) < 1e-9


def test_rfds_rev_rejects_bad_options():
    with pytest.raises(ValueError, match="iterations must be at least 1, not 0"):
        RFDSRev(iterations=0)


# iRFDS


def noise_inputs(prior, x: Tensor, eps: Tensor, t: float, conditions: Conditions):
    """The sample of a run texts_by_row particles are the noise ``eps`` of the pictures ``x``."""
    s = make_inputs(prior.schedule, eps, t, normal(*eps.shape, seed=77), conditions)
    return replace(s, source=EditSource(x, conditions))


@every_schedule
@every_time
def test_identity_13_irfds_is_minus_rfds_with_the_particles_as_noise(schedule, t):
    prior, x, eps = mixture(schedule), normal(5, 4, seed=2), normal(5, 4, seed=3)
    s = noise_inputs(prior, x, eps, t, class_conditions(5, *SHARES))
    rfds = RFDS(1.0)(prior, replace(s, x0=x, eps=eps), NO_STATE)
    assert max_difference(IRFDS(noise_reg=0.0)(prior, s, NO_STATE), -rfds) < 1e-11


def test_irfds_is_the_gradient_of_the_loss_of_the_code():
    """Mean square of (eps - x - v) with v held, plus mean^2 + (variance - 1)^2; times D / 2."""
    prior, x = mixture(), normal(3, 4, seed=2)
    conditions = class_conditions(3, *SHARES)
    for i in range(3):
        eps = (1.7 * normal(3, 4, seed=3) + 0.4)[i : i + 1].requires_grad_()
        s = noise_inputs(prior, x[i : i + 1], eps.detach(), 0.4, conditions[slice(i, i + 1)])
        z = FLOW.add_noise(x[i : i + 1], eps.detach(), s.t)
        v = prior(z, s.t, s.conditions.pos)[0].to_output("flow", 1 - s.t, s.t)
        loss = (eps - x[i : i + 1] - v).square().mean() + eps.mean() ** 2 + (eps.var() - 1) ** 2
        expected = torch.autograd.grad(loss, eps)[0] * 4 / 2
        assert max_difference(IRFDS()(prior, s, NO_STATE), expected) < 1e-12


def test_irfds_finds_the_closed_form_noise_of_a_gaussian():
    mean, std, t = f64([0.4, -0.3]), 0.8, 0.3
    prior = GaussianMixture(mean[None], f64([std]), schedule=FLOW)
    x, eps = normal(4, 2, seed=2), normal(4, 2, seed=3)
    for _ in range(200):
        eps = eps - 0.5 * IRFDS(noise_reg=0.0)(
            prior, noise_inputs(prior, x, eps, t, class_conditions(4, (1.0,), (1.0,))), NO_STATE
        )
    assert max_difference(eps, t / (1 - t) * (x - mean) / std**2) < 1e-9


def test_irfds_passes_and_ignores_the_prompt():
    prior, s = (
        mixture(),
        noise_inputs(
            mixture(), normal(5, 4), normal(5, 4, seed=1), 0.4, class_conditions(5, *SHARES)
        ),
    )
    got, spent = count_calls(prior, lambda: IRFDS()(prior, s, NO_STATE))
    assert spent == (1, 5)
    assert count_calls(prior, lambda: IRFDS(7.5)(prior, s, NO_STATE))[1] == (1, 10)
    deaf = replace(s, conditions=class_conditions(5, (1, 0, 0), (1, 0, 0)), eps=s.eps + 1)
    assert torch.equal(IRFDS()(prior, deaf, NO_STATE), got)


def test_irfds_rejects_bad_options(red_disc):
    with pytest.raises(ValueError, match="normal must not be negative"):
        IRFDS(noise_reg=-1.0)
    with pytest.raises(
        ValueError, match="this method edits: say what the pictures show with --source-prompt"
    ):
        IRFDS()(mixture(), five_rows(), NO_STATE)
    with pytest.raises(
        ValueError,
        match="irfds looks for the noise of a picture: say what it shows with --source-prompt",
    ):
        Run(
            Experiment(("red disc",), method=IRFDS(), representation=NoiseMap(images=(red_disc,))),
            colored_shapes(24),
        )
    with pytest.raises(
        ValueError,
        match="irfds moves the noise of a picture, and latents holds none: use --representation noise-map",
    ):
        Experiment(("red disc",), source_prompt=("red disc",), method=IRFDS())
    with pytest.raises(ValueError, match="noises belong to pictures"):
        NoiseMap().build(colored_shapes(8), 2, 0)
    with pytest.raises(ValueError, match="rate must be positive"):
        NoiseMap(0.0)


@pytest.fixture
def red_disc(tmp_path):
    prior = colored_shapes(24)
    path = tmp_path / "red.png"
    image = prior.decode(prior.means[:1])[0].permute(1, 2, 0)
    Image.fromarray((image * 255).round().to(torch.uint8).numpy()).save(path)
    return path


def test_noise_map_particles_are_noise_and_their_source_is_the_image(red_disc):
    prior = colored_shapes(24, schedule=FLOW, prediction_type="flow")
    experiment = Experiment(
        ("blue disc", "blue ring"),
        source_prompt=("red disc",),
        method=IRFDS(),
        particles=2,
        batch_size=2,
        steps=4,
        representation=NoiseMap(images=(red_disc,)),
    )
    run = Run(experiment, prior)
    assert (
        max_difference(run.source.x0, prior.means[:1].expand(4, -1, -1, -1)) < 1 / 255 + 1e-6
    )  # eight bits
    first = torch.stack(list(run.representation.particles)).detach()
    assert abs(float(first.mean())) < 0.05 and abs(float(first.std()) - 1) < 0.05
    assert max_difference(first[0], first[1]) > 1  # each its own
    step = run.advance()
    rows = step.inputs.particle
    assert torch.equal(step.inputs.source.x0, run.source.x0[rows])
    assert torch.equal(
        step.inputs.source.conditions.pos.data, prior.condition(["red disc"] * 2).data
    )
    assert max_difference(step.inputs.x0, first[rows]) == 0
    kept = {k: v.detach().clone() for k, v in run.tensors().items()}
    assert not any("source" in k for k in kept)
    again = Run(experiment, prior)
    again.load(kept, 1)
    a, b = run.advance(), again.advance()
    assert torch.equal(a.gradient, b.gradient) and torch.equal(
        a.inputs.source.x0, b.inputs.source.x0
    )


def test_irfds_noise_reconstructs_the_image(tmp_path):
    """From the found noise the sampler makes the picture, from the noise at the start another one; a new text edits it."""
    means = torch.stack([torch.full((3, 4, 4), v, dtype=torch.float64) for v in (-0.6, 0.6)])
    prior = GaussianMixture(
        means, f64([0.25, 0.25]), labels=("dark", "bright"), schedule=FLOW, prediction_type="flow"
    )
    x = means[:1] + 0.25 * normal(1, 3, 4, 4, seed=5)
    path = tmp_path / "dark.png"
    Image.fromarray(
        (prior.decode(x)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    ).save(path)
    experiment = Experiment(
        ("bright",),
        source_prompt=("dark",),
        method=IRFDS(),
        representation=NoiseMap(0.05, images=(path,)),
        weight=UniformWeight(),
        optimizer=Adam(decay_start=0.5),
        timesteps=UniformTimes(0.1, 0.8),
        steps=300,
    )
    run = Run(experiment, prior)
    start = run.representation.particles[0].detach().clone()[None].double()
    while run.step < 300:
        run.advance()
    found, x = run.representation.particles[0].detach()[None].double(), run.source.x0
    dark = Conditions(prior.condition(["dark"]), prior.condition([""]))
    back, elsewhere = (
        max_difference(sample_x0(prior, dark, z, 50, 1.0), x) for z in (found, start)
    )
    assert back < 0.1 < 0.5 < elsewhere
    bright = Conditions(prior.condition(["bright"]), prior.condition([""]))
    edited = sample_x0(prior, bright, found, 50, 1.0)
    assert max_difference(edited - means[1], x - means[0]) < 0.1  # another mean and the same detail


# the command line


def test_rectified_flow_on_the_command_line(tmp_path, capsys):
    prior = load("gaussians-flow", "cpu")
    assert prior.schedule == FLOW and prior.prediction_type == "flow"
    assert torch.equal(prior.means, load("gaussians", "cpu").means)
    out, words = (
        tmp_path / "run",
        [
            "--model",
            "gaussians-flow",
            "--device",
            "cpu",
            "--steps",
            "2",
            "--method",
            "rfds-rev",
            "--out",
        ],
    )
    code = main(["run", "red disc", *words, str(out)])
    assert code == 0, capsys.readouterr()
    assert (out / "final.png").exists()


@pytest.mark.parametrize("method", [RFDS(5.0), RFDSRev(5.0)], ids=["rfds", "rfdsrev"])
@pytest.mark.parametrize("schedule", [SD, FLOW], ids=lambda s: type(s).__name__)
def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch(method, schedule):
    prior, s = mixture(schedule), five_rows(schedule, f64([0.05, 0.3, 0.5, 0.75, 0.95]))
    state = method.init(prior, SetupContext(5, 5, 0, s.x0))
    whole = method(prior, s, state)
    for i in range(5):
        rows = torch.tensor([i])
        one = s.select(rows)
        assert max_difference(method(prior, one, state), whole[rows]) < 1e-11


def test_prediction_type_does_not_change_a_mixture():
    """The kind of an exact prior is what its critic is trained in; its answers are the same."""
    s = five_rows(t=0.4)
    a, b = (
        mixture(prediction_type=kind)(s.xt, s.t, s.conditions.pos)[0] for kind in ("eps", "flow")
    )
    assert torch.equal(a.eps, b.eps) and isinstance(s.conditions.pos, Condition)
