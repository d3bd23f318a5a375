"""RFDS, RFDS-Rev and iRFDS on rectified flows and other schedules."""

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
from limbeck.distillation.timesteps.random import UniformTimesteps
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
    rfds = RFDS(scale)(prior, s, NO_STATE)
    assert max_difference(rfds, SDS(scale)(prior, s, NO_STATE) / (1 - t)) < 1e-10 * (1 + scale)
    prediction = guided_prediction(prior, s.xt, s.t, s.conditions, scale)
    v_hat = prediction.to_output("flow", 1 - s.t, s.t)
    assert max_difference(rfds, v_hat - (s.eps - s.x0)) < 1e-11 * (1 + scale)


@pytest.mark.parametrize("schedule", [SD, CosineSchedule()], ids=lambda s: type(s).__name__)
@every_time
def test_identity_13_on_a_variance_preserving_schedule_the_velocity_is_v(schedule, t):
    prior, s = mixture(schedule), five_rows(schedule, t)
    alpha, sigma = schedule.alpha(s.t), schedule.sigma(s.t)
    v_hat = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).to_output("v", alpha, sigma)
    v = Prediction(s.x0, s.eps).to_output("v", alpha, sigma)
    rfds = RFDS(7.5)(prior, s, NO_STATE)
    assert max_difference(rfds, v_hat - v) < 1e-10
    assert max_difference(expand(alpha, rfds) * rfds, SDS(7.5)(prior, s, NO_STATE)) < 1e-10


def test_rfds_is_finite_at_t_one():
    """eps_hat is eps there, so that the velocities differ by x0."""
    prior, s = mixture(), five_rows(t=1.0)
    x0_hat = guided_prediction(prior, s.xt, s.t, s.conditions, 7.5).x0
    assert max_difference(RFDS(7.5)(prior, s, NO_STATE), s.x0 - x0_hat) < 1e-12


def test_identity_13_rfds_run_is_sds_with_weight_one_over_one_minus_t():
    prior = colored_shapes(8, schedule=FLOW, prediction_type="flow")

    def final_particles(method, weight) -> Tensor:
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

    rfds = final_particles(RFDS(5.0), UniformWeight())
    weighted_sds = final_particles(SDS(5.0), AlphaSigmaWeight(-1.0, 0.0))
    assert max_difference(rfds, weighted_sds) < 2e-4
    assert max_difference(rfds, final_particles(SDS(5.0), UniformWeight())) > 1e-2


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
    rfds_rev = RFDSRev(50.0)(prior, s, NO_STATE)
    rfds = RFDS(50.0)(prior, replace(s, eps=reversed_noise), NO_STATE)
    assert max_difference(rfds_rev, rfds) < 1e-10
    z = FLOW.add_noise(s.x0, prediction.eps, s.t)
    eps_hat = guided_prediction(prior, z, s.t, s.conditions, 50.0).eps
    assert max_difference(rfds_rev, (eps_hat - prediction.eps) / (1 - t)) < 1e-9


@pytest.mark.parametrize(
    ("guidance", "rev_guidance", "iterations", "passes"),
    [(50.0, 1.0, 1, (2, 15)), (1.0, 1.0, 3, (4, 20)), (50.0, 7.5, 2, (3, 30))],
)
def test_rfds_rev_passes(guidance, rev_guidance, iterations, passes):
    prior, s, method = mixture(), five_rows(), RFDSRev(guidance, rev_guidance, iterations)
    assert count_calls(prior, lambda: method(prior, s, NO_STATE))[1] == passes


def test_identity_19_rfds_rev_converges_to_the_noise_of_the_image():
    """Identity 19: on a Gaussian it is (sigma / alpha) C^-1 (x - m), where the direction is 0."""
    mean, std, t = f64([0.4, -0.3]), 0.8, 0.3
    prior = GaussianMixture(mean[None], f64([std]), schedule=FLOW)
    conditions = class_conditions(4, (1.0,), (1.0,))
    s = make_inputs(FLOW, normal(4, 2, seed=2), t, normal(4, 2, seed=3), conditions)
    result = PredictedNoise(iterations=60).refine(prior, s)
    expected = t / (1 - t) * (s.x0 - mean) / std**2
    assert max_difference(result, expected) < 1e-9
    direction = RFDSRev(1.0, iterations=60)(prior, s, NO_STATE)
    assert max_difference(direction, torch.zeros(4, 2)) < 1e-9


def test_rfds_rev_rejects_bad_options():
    with pytest.raises(ValueError, match="iterations must be at least 1, not 0"):
        RFDSRev(iterations=0)


# iRFDS


def noise_inputs(prior, x: Tensor, eps: Tensor, t: float, conditions: Conditions):
    """Inputs of a run with the noise ``eps`` of the images ``x`` as particles."""
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
    """Mean square of (eps - x - v), v detached, plus mean^2 + (variance - 1)^2; times D / 2."""
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
    x, eps, conditions = (
        normal(4, 2, seed=2),
        normal(4, 2, seed=3),
        class_conditions(4, (1.0,), (1.0,)),
    )
    for _ in range(200):
        s = noise_inputs(prior, x, eps, t, conditions)
        eps = eps - 0.5 * IRFDS(noise_reg=0.0)(prior, s, NO_STATE)
    assert max_difference(eps, t / (1 - t) * (x - mean) / std**2) < 1e-9


def test_irfds_passes_and_ignores_the_prompt():
    prior, conditions = mixture(), class_conditions(5, *SHARES)
    s = noise_inputs(prior, normal(5, 4), normal(5, 4, seed=1), 0.4, conditions)
    direction, passes = count_calls(prior, lambda: IRFDS()(prior, s, NO_STATE))
    assert passes == (1, 5)
    assert count_calls(prior, lambda: IRFDS(7.5)(prior, s, NO_STATE))[1] == (1, 10)
    other = replace(s, conditions=class_conditions(5, (1, 0, 0), (1, 0, 0)), eps=s.eps + 1)
    assert torch.equal(IRFDS()(prior, other, NO_STATE), direction)


def test_irfds_rejects_bad_options(red_disc):
    with pytest.raises(ValueError, match="noise_reg must be at least 0, not -1"):
        IRFDS(noise_reg=-1.0)
    with pytest.raises(ValueError, match="sampling_steps must be at least 1"):
        Experiment(
            ("red disc",),
            source_prompt=("red disc",),
            method=IRFDS(sampling_steps=0),
            representation=NoiseMap(images=(red_disc,)),
        )
    with pytest.raises(ValueError, match="describe them with --source-prompt"):
        IRFDS()(mixture(), five_rows(), NO_STATE)
    without_source = Experiment(
        ("red disc",), method=IRFDS(), representation=NoiseMap(images=(red_disc,))
    )
    with pytest.raises(
        ValueError, match=r"limbeck edit IMAGE, or describe it with --source-prompt"
    ):
        Run(without_source, colored_shapes(24))
    message = "method irfds optimizes the noise .* representation latents .* noise-map"
    with pytest.raises(ValueError, match=message):
        Experiment(("red disc",), source_prompt=("red disc",), method=IRFDS())
    message = "noise-map holds the noise of images, which method sds does not .* --method irfds"
    with pytest.raises(ValueError, match=message):
        Experiment(("red disc",), representation=NoiseMap(images=(red_disc,)))
    with pytest.raises(ValueError, match="a noise map belongs to images"):
        NoiseMap().build(colored_shapes(8), 2, 0)
    with pytest.raises(ValueError, match="lr must be positive"):
        NoiseMap(0.0)


def save_image(image: Tensor, path) -> None:
    pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)


@pytest.fixture
def red_disc(tmp_path):
    prior = colored_shapes(24)
    path = tmp_path / "red.png"
    save_image(prior.decode(prior.means[:1])[0], path)
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
    source = prior.means[:1].expand(4, -1, -1, -1)
    assert max_difference(run.source.x0, source) < 1 / 255 + 1e-6  # the image has eight bits
    first = torch.stack(list(run.representation.particles)).detach()
    assert abs(float(first.mean())) < 0.05 and abs(float(first.std()) - 1) < 0.05
    assert max_difference(first[0], first[1]) > 1
    step = run.advance()
    rows = step.inputs.particle
    assert torch.equal(step.inputs.source.x0, run.source.x0[rows])
    condition = prior.condition(["red disc"] * 2)
    assert torch.equal(step.inputs.source.conditions.pos.data, condition.data)
    assert max_difference(step.inputs.x0, first[rows]) == 0
    checkpoint = {k: v.detach().clone() for k, v in run.tensors().items()}
    assert not any("source" in k for k in checkpoint)
    resumed = Run(experiment, prior)
    resumed.load(checkpoint, 1)
    a, b = run.advance(), resumed.advance()
    assert torch.equal(a.gradient, b.gradient)
    assert torch.equal(a.inputs.source.x0, b.inputs.source.x0)


def test_irfds_noise_reconstructs_the_image(tmp_path):
    """Sampled from the found noise, and not from the initial one; another prompt edits it."""
    means = torch.stack([torch.full((3, 4, 4), v, dtype=torch.float64) for v in (-0.6, 0.6)])
    options = {"labels": ("dark", "bright"), "schedule": FLOW, "prediction_type": "flow"}
    prior = GaussianMixture(means, f64([0.25, 0.25]), **options)
    x = means[:1] + 0.25 * normal(1, 3, 4, 4, seed=5)
    path = tmp_path / "dark.png"
    save_image(prior.decode(x)[0], path)
    experiment = Experiment(
        ("bright",),
        source_prompt=("dark",),
        method=IRFDS(),
        representation=NoiseMap(0.05, images=(path,)),
        weight=UniformWeight(),
        optimizer=Adam(decay_start=0.5),
        timesteps=UniformTimesteps(0.1, 0.8),
        steps=300,
    )
    run = Run(experiment, prior)
    initial = run.representation.particles[0].detach().clone()[None].double()
    while run.step < 300:
        run.advance()
    found, x = run.representation.particles[0].detach()[None].double(), run.source.x0
    dark = Conditions(prior.condition(["dark"]), prior.condition([""]))
    from_found = max_difference(sample_x0(prior, dark, found, 50, 1.0), x)
    from_initial = max_difference(sample_x0(prior, dark, initial, 50, 1.0), x)
    assert from_found < 0.1 < 0.5 < from_initial
    bright = Conditions(prior.condition(["bright"]), prior.condition([""]))
    edited = sample_x0(prior, bright, found, 50, 1.0)
    assert max_difference(edited - means[1], x - means[0]) < 0.1  # other mean, same detail


# Command line


def test_rectified_flow_on_the_command_line(tmp_path, capsys):
    prior = load("gaussians-flow", "cpu")
    assert prior.schedule == FLOW and prior.prediction_type == "flow"
    assert torch.equal(prior.means, load("gaussians", "cpu").means)
    out = tmp_path / "run"
    model = ["--model", "gaussians-flow", "--device", "cpu"]
    options = ["--steps", "2", "--method", "rfds-rev", "--out", str(out)]
    code = main(["run", "red disc", *model, *options])
    assert code == 0, capsys.readouterr()
    assert (out / "final.png").exists()


@pytest.mark.parametrize("method", [RFDS(5.0), RFDSRev(5.0)], ids=["rfds", "rfds-rev"])
@pytest.mark.parametrize("schedule", [SD, FLOW], ids=lambda s: type(s).__name__)
def test_identity_30_direction_of_a_row_does_not_depend_on_its_batch(method, schedule):
    prior, s = mixture(schedule), five_rows(schedule, f64([0.05, 0.3, 0.5, 0.75, 0.95]))
    state = method.init(prior, SetupContext(5, 5, 0, s.x0))
    whole = method(prior, s, state)
    for i in range(5):
        rows = torch.tensor([i])
        assert max_difference(method(prior, s.select(rows), state), whole[rows]) < 1e-11


def test_prediction_type_does_not_change_a_mixture():
    """It only decides what a critic is trained to predict."""
    s = five_rows(t=0.4)
    priors = [mixture(prediction_type=kind) for kind in ("eps", "flow")]
    a, b = (prior(s.xt, s.t, s.conditions.pos)[0] for prior in priors)
    assert torch.equal(a.eps, b.eps) and isinstance(s.conditions.pos, Condition)
