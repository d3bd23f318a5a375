"""The training loop: what it updates, bit-identical resuming, and stops at non-finite values."""

from dataclasses import dataclass, replace

import pytest
import torch
from run_folders import experiment as recorded_experiment
from tiny_pipeline import make_inputs, max_difference, normal, row_rng

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.critics.trained import CriticTrainer
from limbeck.distillation.gradient_transforms import Clip, Normalize, NoTransform
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import (
    AntitheticNoise,
    DriftingNoise,
    FixedPerParticleNoise,
    IndependentNoise,
)
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.distillation.timesteps.random import TwoStageTimesteps
from limbeck.distillation.weights import DreamFusionWeight, UniformWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.methods.base import LatentAndImageGradient, StatelessMethod
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD, Adam
from limbeck.training.row_draws import draw_rows
from limbeck.training.step_gradient import weighted_gradient
from limbeck.training.trainer import Run, steps


def shapes_prior() -> GaussianMixture:
    return colored_shapes(8)


def make_experiment(**options) -> Experiment:
    defaults = {
        "prompts": ("red disc", "blue ring"),
        "particles": 3,
        "steps": 8,
        "method": SDS(5.0),
    }
    return Experiment(**defaults | options)


def copy_tensors(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in run.tensors().items()}


def are_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "representation",
    [Latents(), Pixels(num_levels=2, smoothness_weight=0.1)],
    ids=["latents", "pixels"],
)
@pytest.mark.parametrize("method", [SDS(5.0), VSD(5.0, critic=ExactCritic())], ids=["sds", "vsd"])
def test_adam_does_not_update_a_particle_that_is_not_drawn(method, representation):
    experiment = make_experiment(batch_size=2, method=method, representation=representation)
    run, all_drawn = Run(experiment, shapes_prior()), set()
    while run.step < 8:
        before = copy_tensors(run)
        drawn = run.advance().inputs.particle.tolist()
        after = copy_tensors(run)
        all_drawn |= set(drawn)
        assert len(set(drawn)) == 2
        for i, (name, p) in enumerate(run.representation.named_parameters()):
            is_drawn = i % 6 in drawn
            key = f"representation.{name}"
            assert torch.equal(before[key], after[key]) != is_drawn
            state = [k for k in after if k.startswith(f"optimizer.{i}.")]
            if not is_drawn:
                assert all(torch.equal(before[k], after[k]) for k in state)
            assert p.grad is None
    assert len(all_drawn) > 3


def test_particles_are_drawn_uniformly():
    experiment = make_experiment(batch_size=2, steps=1)
    counts = torch.zeros(6)
    for step in range(3000):
        counts[draw_rows(experiment, step).particle] += 1
    assert float((counts - 1000).abs().max()) < 4 * (3000 / 3 * 2 / 3) ** 0.5


@pytest.mark.parametrize("particles", [1, 5])
def test_a_particle_receives_its_weighted_direction_exactly(particles):
    experiment = make_experiment(
        prompts=("red disc",),
        particles=particles,
        representation=Latents(0.5),
        optimizer=SGD(),
        steps=1,
    )
    run = Run(experiment, shapes_prior())
    before = torch.stack(list(run.representation.particles)).detach().clone()
    step = run.advance()
    inputs = step.inputs
    schedule, t = inputs.schedule, inputs.t
    direction = SDS(5.0)(run.prior, inputs, run.state)
    expected = before - 0.5 * expand(schedule.sigma(t) ** 2, direction) * direction
    weight = expand(DreamFusionWeight()(schedule, t), direction)
    assert torch.equal(step.gradient, weight * direction)
    after = torch.stack(list(run.representation.particles))
    assert max_difference(after, expected) < 1e-6  # one float32 rounding


def test_pixels_receive_the_gradient_through_render_and_encode():
    representation = Pixels(0.5, num_levels=2, smoothness_weight=0.0)
    experiment = make_experiment(representation=representation, optimizer=SGD(), steps=1)
    run = Run(experiment, shapes_prior())
    before = [p.detach().clone().requires_grad_() for p in run.representation.parameters()]
    step = run.advance()
    fine, coarse = torch.stack(before[:6]), torch.stack(before[6:])
    up = torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear", align_corners=False)
    x0 = (fine + up).sigmoid() * 2 - 1
    assert max_difference(x0, step.inputs.x0) < 1e-6
    grads = torch.autograd.grad((x0 * step.gradient).sum(), before)
    lrs = [0.25] * 6 + [0.5] * 6  # a level has half the learning rate of the next coarser one
    for p, old, grad, lr in zip(run.representation.parameters(), before, grads, lrs, strict=True):
        assert max_difference(p, old - lr * grad) < 1e-6


@pytest.mark.parametrize("per_particle", [2, 4])
def test_the_smoothness_of_pixels_does_not_grow_with_the_rows_of_a_particle(per_particle):
    def smoothness(rows: int) -> float:
        experiment = make_experiment(
            representation=Pixels(num_levels=2), cameras=NoCamera(per_particle=rows)
        )
        return float(Run(experiment, shapes_prior()).advance().metrics["smoothness"])

    assert smoothness(per_particle) == pytest.approx(smoothness(1), rel=1e-6)


def test_rendered_pixels_are_images():
    representation = Pixels(num_levels=4).build(shapes_prior(), 3, 0)
    render = representation.render(RenderRequest(torch.tensor([2, 0])))
    assert render.space == "image" and render.image.shape == (2, 3, 8, 8)
    image = render.image.detach()
    assert float(image.min()) > 0 and float(image.max()) < 1
    single = representation.render(RenderRequest(torch.tensor([2])))
    assert torch.equal(render.image[0], single.image[0])


def test_a_particle_has_the_conditions_of_its_own_prompt():
    run = Run(make_experiment(), shapes_prior())
    conditions = run.prompts.conditions_for(torch.tensor([0, 2, 3, 5]))
    prompts = ["red disc", "red disc", "blue ring", "blue ring"]
    expected = torch.stack([run.prior.condition([prompt]).data[0] for prompt in prompts])
    assert torch.equal(conditions.pos.data, expected)
    assert torch.equal(conditions.null.data, run.prior.condition([""] * 4).data)


def test_a_negative_prompt_replaces_the_empty_one():
    run = Run(make_experiment(negative_prompt="green"), shapes_prior())
    assert torch.equal(run.prompts.conditions.null.data, run.prior.condition(["green"] * 2).data)


def test_learning_rates_decay_linearly_from_decay_start():
    experiment = make_experiment(
        optimizer=SGD(decay_start=0.5), representation=Latents(0.2), steps=8
    )
    run, lrs = Run(experiment, shapes_prior()), []
    while run.step < 8:
        run.advance()
        lrs.append(run.optimizer.param_groups[0]["lr"])
    expected = [0.2] * 5 + [0.2 * factor for factor in (0.75, 0.5, 0.25)]
    assert max(abs(a - b) for a, b in zip(lrs, expected, strict=True)) < 1e-15


METHODS = {
    "sds": SDS(5.0),
    "vsd_exact": VSD(5.0, critic=ExactCritic()),
    "vsd_small": VSD(
        5.0, 0.5, critic=SmallUNetCritic(8, CriticTraining(steps=2, unconditional_prob=0.3))
    ),
}


def check_resuming(experiment: Experiment, make_prior, step: int) -> None:
    """Stop after ``step`` steps and resume in a new run with a new prior: the same bit by bit."""
    run = Run(experiment, make_prior())
    while run.step < step:
        run.advance()
    saved = copy_tensors(run)
    torch.manual_seed(123)  # nothing may depend on the global generator
    resumed = Run(experiment, make_prior())
    resumed.load(saved, step)
    assert are_equal(copy_tensors(resumed), saved)
    while run.step < experiment.steps:
        a, b = run.advance(), resumed.advance()
        assert torch.equal(a.gradient, b.gradient)
        assert all(torch.equal(a.metrics[k], b.metrics[k]) for k in a.metrics)
    assert are_equal(copy_tensors(run), copy_tensors(resumed))
    assert not are_equal(copy_tensors(resumed), saved)


SETTINGS = {
    "latents": {"representation": Latents(), "optimizer": Adam(decay_start=0.5)},
    "pixels": {
        "representation": Pixels(num_levels=2, smoothness_weight=0.01),
        "optimizer": SGD(momentum=0.9),
        "batch_size": 2,
    },
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one(method, setting):
    experiment = make_experiment(
        method=METHODS[method], steps=5, timesteps=TwoStageTimesteps(), **SETTINGS[setting]
    )
    check_resuming(experiment, shapes_prior, 3)


@pytest.mark.parametrize(
    "representation", [Latents(), Pixels(num_levels=2)], ids=["latents", "pixels"]
)
def test_a_resumed_run_with_a_lora_critic_is_the_uninterrupted_one(eps_folder, representation):
    experiment = make_experiment(
        prompts=("a red mug",),
        method=VSD(5.0, critic=LoRACritic(4, CriticTraining(lr=1e-2))),
        representation=representation,
        batch_size=2,
        steps=5,
    )
    check_resuming(experiment, lambda: StableDiffusion(str(eps_folder)), 3)


def test_a_checkpoint_of_another_method_is_refused():
    saved = copy_tensors(
        Run(make_experiment(method=VSD(5.0, critic=ExactCritic())), shapes_prior())
    )
    with pytest.raises(ValueError, match="x0"):
        Run(make_experiment(), shapes_prior()).load(saved, 1)


@pytest.mark.parametrize(
    "noise",
    [IndependentNoise(), FixedPerParticleNoise(), DriftingNoise(), AntitheticNoise()],
    ids=lambda noise: type(noise).__name__,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_noise_is_independent_of_the_initial_particles(seed, noise):
    """They come from different streams: no row of one is a row of the other, not even shifted."""
    experiment = make_experiment(
        prompts=("red disc",),
        particles=4,
        seed=seed,
        noise=noise,
        timesteps=FixedTimesteps(0.5),
        steps=1,
    )
    inputs = next(steps(experiment, shapes_prior())).inputs
    x0, eps = inputs.x0.detach().flatten(1), inputs.eps.flatten(1)
    assert float((x0 @ eps.T / x0.shape[1]).abs().max()) < 5 / x0.shape[1] ** 0.5


def test_the_generator_of_steps_is_the_run():
    run = Run(make_experiment(), shapes_prior())
    gradients = [run.advance().gradient for _ in range(8)]
    results = list(steps(make_experiment(), shapes_prior()))
    assert [result.step for result in results] == list(range(1, 9))
    pairs = zip(results, gradients, strict=True)
    assert all(torch.equal(result.gradient, gradient) for result, gradient in pairs)


class FailingPrior:
    """A prior whose predictions contain a bad value after some calls."""

    def __init__(self, prior, bad: float, good_calls: int):
        self.__dict__.update(vars(prior))
        self.prior, self.bad, self.good_calls = prior, bad, good_calls
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition

    def __call__(self, xt, t, *conditions):
        self.good_calls -= 1
        predictions = self.prior(xt, t, *conditions)
        if self.good_calls < 0:
            x0 = predictions[0].x0.clone()
            x0.view(-1)[5] = self.bad
            predictions[0] = Prediction(x0, x0)
        return predictions


@pytest.mark.parametrize("optimizer", [Adam(), SGD()], ids=["adam", "sgd"])
@pytest.mark.parametrize(
    "representation", [Latents(), Pixels(num_levels=2)], ids=["latents", "pixels"]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "method",
    [SDS(5.0), VSD(5.0, critic=ExactCritic()), VSD(5.0, critic=SmallUNetCritic(8))],
    ids=["sds", "exact", "small"],
)
def test_a_non_finite_value_stops_the_run_before_anything_changes(
    method, bad, representation, optimizer
):
    experiment = make_experiment(method=method, representation=representation, optimizer=optimizer)
    run = Run(experiment, FailingPrior(shapes_prior(), bad, 2))
    run.advance()
    run.advance()
    before = copy_tensors(run)
    message = r"step 2: the direction the method returned is not finite"
    with pytest.raises(NonFiniteError, match=message) as error:
        run.advance()
    before, after = (
        {k: v for k, v in tensors.items() if not k.startswith("state.x0")}
        for tensors in (before, copy_tensors(run))
    )
    assert are_equal(before, after)
    assert run.step == 2 and error.value.step == 2
    assert set(error.value.inputs) >= {"x0", "t", "eps", "gradient"}
    assert not bool(error.value.inputs["gradient"].isfinite().all())
    assert bool(error.value.inputs["x0"].isfinite().all())


def test_a_non_finite_render_is_named():
    run = Run(make_experiment(), shapes_prior())
    with torch.no_grad():
        run.representation.particles[4].view(-1)[0] = float("nan")
    before = copy_tensors(run)
    with pytest.raises(NonFiniteError, match="the render or its encoding"):
        run.advance()
    for name, value in copy_tensors(run).items():
        assert torch.equal(before[name].nan_to_num(7.0), value.nan_to_num(7.0))


class OverflowingParticles(Representation):
    """A finite x0 whose gradient overflows float32 on its way to the parameter."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.full((1, 3, 8, 8), 1e-30))

    def render(self, request):
        return Render((self.a * 1e30) * 1e10 * 1e-10, "latent")

    def param_groups(self):
        return [{"params": [self.a], "lr": 0.1}]


@dataclass(frozen=True)
class Overflowing(RepresentationConfig):
    def build(self, prior, particles, seed):
        return OverflowingParticles()


@dataclass(frozen=True)
class LargeDirection(StatelessMethod):
    def __call__(self, prior, inputs, state):
        return torch.full_like(inputs.x0, 1e10)


def test_a_gradient_that_overflows_in_the_backward_pass_is_named():
    experiment = make_experiment(
        prompts=("red disc",),
        particles=1,
        method=LargeDirection(),
        representation=Overflowing(),
        weight=UniformWeight(),
    )
    run = Run(experiment, shapes_prior())
    before = copy_tensors(run)
    with pytest.raises(NonFiniteError, match="the gradient of the parameters"):
        run.advance()
    assert are_equal(copy_tensors(run), before)


def test_a_run_continues_after_a_failure_as_if_it_had_not_happened():
    experiment = make_experiment(optimizer=SGD())
    prior = FailingPrior(shapes_prior(), float("nan"), 2)
    run, other = Run(experiment, prior), Run(experiment, shapes_prior())
    for _ in range(2):
        run.advance()
        other.advance()
    with pytest.raises(NonFiniteError):
        run.advance()
    prior.good_calls = 1000
    for _ in range(3):
        run.advance()
        other.advance()
    assert are_equal(copy_tensors(run), copy_tensors(other))


def test_metrics_of_a_step():
    experiment = make_experiment(
        optimizer=SGD(), representation=Latents(0.1), timesteps=FixedTimesteps(0.4)
    )
    run = Run(experiment, shapes_prior())
    before = torch.cat([p.detach().flatten().clone() for p in run.representation.parameters()])
    step = run.advance()
    after = torch.cat([p.detach().flatten() for p in run.representation.parameters()])
    inputs, metrics = step.inputs, {k: float(v) for k, v in step.metrics.items()}
    direction = SDS(5.0)(run.prior, inputs, run.state)
    assert abs(metrics["residual"] - float(direction.square().mean().sqrt())) < 1e-6
    assert abs(metrics["gradient"] - float(step.gradient.square().mean().sqrt())) < 1e-6
    assert abs(metrics["grad_norm"] / float((after - before).norm() / 0.1) - 1) < 1e-4
    assert abs(metrics["weight"] - float(inputs.schedule.sigma(inputs.t)[0] ** 2)) < 1e-12
    assert abs(metrics["t"] - 0.4) < 1e-6


def test_the_gradient_transform_sees_both_parts_of_a_latent_and_image_gradient():
    direction = LatentAndImageGradient(
        torch.full((2, 1, 2, 2), 3.0), torch.full((2, 3, 2, 2), -6.0)
    )
    weight = torch.tensor([1.0, 2.0])

    def transformed(transform):
        experiment = recorded_experiment(grad_transform=transform)
        return weighted_gradient(experiment, 0, direction, weight)

    x0, image = transformed(NoTransform())
    assert torch.equal(x0[:, 0, 0, 0], torch.tensor([3.0, 6.0]))
    assert torch.equal(image[:, 0, 0, 0], torch.tensor([-6.0, -12.0]))
    x0, image = transformed(Clip(4.0, 4.0))
    assert torch.equal(x0[:, 0, 0, 0], torch.tensor([3.0, 4.0])) and bool((image == -4).all())
    x0, image = transformed(Normalize(0.5))
    rms = torch.cat([x0.flatten(1), image.flatten(1)], 1).square().mean(1).sqrt()
    assert torch.allclose(rms, torch.tensor(0.5))
    assert torch.allclose(image[:, :1], -2 * x0)  # the proportion is kept


class ExactDenoiser:
    """The exact denoiser of a single particle, with a parameter that has no effect."""

    def __init__(self, x0, schedule):
        self.x0, self.schedule = x0, schedule
        self.offset = torch.nn.Parameter(torch.zeros(()).double())

    def __call__(self, xt, t, condition):
        alpha, sigma = expand(self.schedule.alpha(t), xt), expand(self.schedule.sigma(t), xt)
        x0 = self.x0.expand_as(xt)
        return [Prediction(x0 + self.offset, (xt - alpha * x0) / sigma + self.offset)]


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_the_exact_denoiser_has_no_critic_loss(target):
    """Denoising score matching: true for every loss target, on a single particle."""
    prior, x0 = shapes_prior(), normal(1, 3, 8, 8)
    conditions = Conditions(prior.condition(["red disc"] * 6), prior.condition([""] * 6))
    eps = normal(6, 3, 8, 8)
    inputs = make_inputs(prior.schedule, x0.expand(6, -1, -1, -1), 0.5, eps, conditions)

    def loss(denoiser):
        trainer = CriticTrainer([denoiser.offset], CriticTraining(lr=0.0, steps=3), target)
        return float(trainer.fit(denoiser, inputs)["critic"])

    assert loss(ExactDenoiser(x0, prior.schedule)) < 1e-24
    assert loss(ExactDenoiser(x0 + 0.1, prior.schedule)) > 1e-4


def test_the_small_unet_critic_learns():
    """Its error against the closed form over the same particles, noise and timesteps."""
    prior, x0 = shapes_prior(), 0.2 * normal(4, 3, 8, 8, dtype=torch.float32)
    conditions = Conditions(prior.condition(["red disc"] * 4), prior.condition([""] * 4))
    context = SetupContext(4, 1, 0, x0)
    critic = SmallUNetCritic(8, CriticTraining(lr=1e-2)).build(prior, context)
    exact = ExactCritic().build(prior, context)
    t = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    eps = normal(4, 3, 8, 8, seed=1, dtype=torch.float32)
    inputs = make_inputs(prior.schedule, x0, t, eps, conditions)

    def error() -> float:
        with torch.no_grad():
            a, b = (c.prior()(inputs.xt, inputs.t, conditions.pos)[0].x0 for c in (critic, exact))
        return float((a - b).square().mean())

    before = error()
    for step in range(40):
        critic.fit(replace(inputs, rng=row_rng(4, 0, step)))
    assert error() < 0.55 * before


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": ()},
        {"prompts": ("a", "")},
        {"particles": 0},
        {"steps": 0},
        {"batch_size": 7},
        {"batch_size": -1},
        {"seed": -1},
    ],
)
def test_meaningless_experiments_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options)).rstrip("s")):
        make_experiment(**options)
