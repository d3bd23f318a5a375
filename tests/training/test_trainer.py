"""The loop: what moves, what does not, that a resumed run is the uninterrupted one, and that a bad number stops it."""

from dataclasses import dataclass

import pytest
import torch
from tiny_pipeline import make_inputs, normal, max_difference

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import CriticTrainer, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import AntitheticNoise, DriftingNoise, FixedPerParticleNoise, IndependentNoise
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.distillation.timesteps.random import TwoStageTimesteps
from limbeck.distillation.weights import DreamFusionWeight, UniformWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.base import StatelessMethod
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam, SGD
from limbeck.training.trainer import Run, step_generator, steps
from limbeck.training.trainer import draw_particles as rows_of


def shapes() -> GaussianMixture:
    return colored_shapes(8)


def red(**options) -> Experiment:
    return Experiment(
        **(
            {"prompts": ("red disc", "blue ring"), "particles": 3, "steps": 8, "method": SDS(5.0)}
            | options
        )
    )


def copy(run: Run) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in run.tensors().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "representation", [Latents(), Pixels(levels=2, smooth=0.1)], ids=["latents", "pixels"]
)
@pytest.mark.parametrize("method", [SDS(5.0), VSD(5.0, critic=ExactCritic())], ids=["sds", "vsd"])
def test_a_particle_that_is_not_drawn_does_not_move_under_adam(method, representation):
    run = Run(red(batch_size=2, method=method, representation=representation), shapes())
    particles = []
    while run.step < 8:
        before = copy(run)
        view = run.advance().inputs.particle.tolist()
        after = copy(run)
        particles += view
        assert len(set(view)) == 2
        for particle in range(6):
            for i, (name, p) in enumerate(run.representation.named_parameters()):
                if i % 6 != particle:
                    continue
                key = f"representation.{name}"
                assert torch.equal(before[key], after[key]) == (particle not in view)
                memory = [k for k in after if k.startswith(f"optimizer.{i}.")]
                if particle not in view:
                    assert all(torch.equal(before[k], after[k]) for k in memory)
                assert p.grad is None
    assert len(set(particles)) > 3


def test_drawn_particles_are_a_fair_draw():
    run = Run(red(batch_size=2, steps=1), shapes())
    counts = torch.zeros(6)
    for step in range(3000):
        counts[rows_of(run.experiment, step_generator(0, step))] += 1
    assert float((counts - 1000).abs().max()) < 4 * (3000 / 3 * 2 / 3) ** 0.5


@pytest.mark.parametrize("particles", [1, 5])
def test_what_a_particle_receives_is_its_weighted_direction_exactly(particles):
    run = Run(
        red(
            prompts=("red disc",),
            particles=particles,
            representation=Latents(0.5),
            optimizer=SGD(),
            steps=1,
        ),
        shapes(),
    )
    before = torch.stack(list(run.representation.particles)).detach().clone()
    step = run.advance()
    s = step.inputs
    direction = SDS(5.0)(run.prior, s, run.state)
    expected = before - 0.5 * expand(s.schedule.sigma(s.t) ** 2, direction) * direction
    assert torch.equal(
        step.gradient, expand(DreamFusionWeight()(s.schedule, s.t), direction) * direction
    )
    assert (
        max_difference(torch.stack(list(run.representation.particles)), expected) < 1e-6
    )  # one float32 rounding


def test_pixels_receive_the_gradient_through_render_and_encode():
    run = Run(
        red(representation=Pixels(0.5, levels=2, smooth=0.0), optimizer=SGD(), steps=1), shapes()
    )
    before = [p.detach().clone().requires_grad_() for p in run.representation.parameters()]
    step = run.advance()
    fine, coarse = torch.stack(before[:6]), torch.stack(before[6:])
    up = torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear", align_corners=False)
    x0 = (fine + up).sigmoid() * 2 - 1
    assert max_difference(x0, step.inputs.x0) < 1e-6
    grads = torch.autograd.grad((x0 * step.gradient).sum(), before)
    rates = [0.25] * 6 + [0.5] * 6  # a level moves at half the rate of the next coarser one
    for p, old, g, rate in zip(run.representation.parameters(), before, grads, rates, strict=True):
        assert max_difference(p, old - rate * g) < 1e-6


def test_rendered_pixels_are_pictures():
    representation = Pixels(levels=4).build(shapes(), 3, 0)
    render = representation.render(RenderRequest(torch.tensor([2, 0])))
    assert render.space == "image" and render.image.shape == (2, 3, 8, 8)
    image = render.image.detach()
    assert float(image.min()) > 0 and float(image.max()) < 1
    assert torch.equal(
        render.image[0], representation.render(RenderRequest(torch.tensor([2]))).image[0]
    )


def test_a_particle_hears_its_own_prompt():
    run = Run(red(), shapes())
    told = run.conditions_for(torch.tensor([0, 2, 3, 5]))
    shares = [
        run.prior.condition([p]).data[0] for p in ("red disc", "red disc", "blue ring", "blue ring")
    ]
    assert all(torch.equal(a, b) for a, b in zip(told.pos.data, shares, strict=True))
    assert torch.equal(told.null.data, run.prior.condition([""] * 4).data)


def test_a_negative_prompt_takes_the_place_of_the_empty_one():
    run = Run(red(negative_prompt="green"), shapes())
    assert torch.equal(run.conditions.null.data, run.prior.condition(["green"] * 2).data)


def test_rates_fall_as_asked():
    run = Run(red(optimizer=SGD(decay_start=0.5), representation=Latents(0.2), steps=8), shapes())
    rates = []
    while run.step < 8:
        run.advance()
        rates.append(run.optimizer.param_groups[0]["lr"])
    expected = [0.2] * 5 + [0.2 * f for f in (0.75, 0.5, 0.25)]
    assert max(abs(a - b) for a, b in zip(rates, expected, strict=True)) < 1e-15


METHODS = {
    "sds": SDS(5.0),
    "vsd_exact": VSD(5.0, critic=ExactCritic()),
    "vsd_small": VSD(
        5.0, 0.5, critic=SmallUNetCritic(8, CriticTraining(steps=2, unconditional_prob=0.3))
    ),
}


def resumed(experiment: Experiment, make, at: int) -> None:
    """Stop after ``at`` steps, go on in a fresh run with a fresh prior: the same to the last bit."""
    whole = Run(experiment, make())
    while whole.step < at:
        whole.advance()
    kept = copy(whole)
    torch.manual_seed(123)  # nothing may hang on the global generator
    again = Run(experiment, make())
    again.load(kept, at)
    assert same(copy(again), kept)
    while whole.step < experiment.steps:
        a, b = whole.advance(), again.advance()
        assert torch.equal(a.gradient, b.gradient)
        assert all(torch.equal(a.metrics[k], b.metrics[k]) for k in a.metrics)
    assert same(copy(whole), copy(again))
    assert not same(copy(again), kept)


WAYS = {
    "latents": {"representation": Latents(), "optimizer": Adam(decay_start=0.5)},
    "pixels": {
        "representation": Pixels(levels=2, smooth=0.01),
        "optimizer": SGD(momentum=0.9),
        "batch": 2,
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one(method, way):
    resumed(
        red(method=METHODS[method], steps=5, timesteps=TwoStageTimesteps(), **WAYS[way]), shapes, 3
    )


@pytest.mark.parametrize("representation", [Latents(), Pixels(levels=2)], ids=["latents", "pixels"])
def test_a_resumed_run_with_low_rank_critic_is_the_uninterrupted_one(eps_folder, representation):
    experiment = red(
        prompts=("a red mug",),
        method=VSD(5.0, critic=LoRACritic(4, CriticTraining(lr=1e-2))),
        representation=representation,
        batch_size=2,
        steps=5,
    )
    resumed(experiment, lambda: StableDiffusion(str(eps_folder)), 3)


def test_a_checkpoint_of_another_method_is_refused():
    kept = copy(Run(red(method=VSD(5.0, critic=ExactCritic())), shapes()))
    with pytest.raises(ValueError, match="x0"):
        Run(red(), shapes()).load(kept, 1)


def test_the_generator_hangs_on_seed_and_step_alone():
    draws = {
        (s, k): torch.randn(4, generator=step_generator(s, k)) for s in (0, 1, 7) for k in (0, 1, 500)
    }
    assert torch.equal(draws[7, 500], torch.randn(4, generator=step_generator(7, 500)))
    values = [tuple(v.tolist()) for v in draws.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    "noise",
    [IndependentNoise(), FixedPerParticleNoise(), DriftingNoise(), AntitheticNoise()],
    ids=lambda n: type(n).__name__,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_noise_is_independent_of_the_start(seed, noise):
    """They come from different streams: no row of one is a row of the other, not even shifted."""
    experiment = red(
        prompts=("red disc",),
        particles=4,
        seed=seed,
        noise=noise,
        timesteps=FixedTimesteps(0.5),
        steps=1,
    )
    s = next(steps(experiment, shapes())).inputs
    start, eps = s.x0.detach().flatten(1), s.eps.flatten(1)
    assert float((start @ eps.T / start.shape[1]).abs().max()) < 5 / start.shape[1] ** 0.5


def test_the_loop_as_a_generator_is_the_run():
    run = Run(red(), shapes())
    gradients = [run.advance().gradient for _ in range(8)]
    seen = list(steps(red(), shapes()))
    assert [s.step for s in seen] == list(range(1, 9))
    assert all(torch.equal(s.gradient, g) for s, g in zip(seen, gradients, strict=True))


class Failing:
    """A prior that goes wrong at some call."""

    def __init__(self, prior, bad: float, after: int):
        self.__dict__.update(vars(prior))
        self.prior, self.bad, self.left = prior, bad, after
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition

    def __call__(self, xt, t, *conditions):
        self.left -= 1
        said = self.prior(xt, t, *conditions)
        if self.left < 0:
            x0 = said[0].x0.clone()
            x0.view(-1)[5] = self.bad
            said[0] = Prediction(x0, x0)
        return said


@pytest.mark.parametrize("optimizer", [Adam(), SGD()], ids=["adam", "sgd"])
@pytest.mark.parametrize("representation", [Latents(), Pixels(levels=2)], ids=["latents", "pixels"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "method",
    [SDS(5.0), VSD(5.0, critic=ExactCritic()), VSD(5.0, critic=SmallUNetCritic(8))],
    ids=["sds", "exact", "small"],
)
def test_a_value_that_is_not_finite_stops_the_run_before_anything_changes(
    method, bad, representation, optimizer
):
    run = Run(
        red(method=method, representation=representation, optimizer=optimizer),
        Failing(shapes(), bad, 2),
    )
    run.advance()
    run.advance()
    before = copy(run)
    with pytest.raises(
        NonFiniteError, match=r"step 2: the direction the method answered is not finite"
    ) as error:
        run.advance()
    after = copy(run)
    assert same(
        {k: v for k, v in before.items() if not k.startswith("state.x0")},
        {k: v for k, v in after.items() if not k.startswith("state.x0")},
    )
    assert run.step == 2 and error.value.step == 2
    assert set(error.value.inputs) >= {"x0", "t", "eps", "gradient"}
    assert not bool(error.value.inputs["gradient"].isfinite().all())
    assert bool(error.value.inputs["x0"].isfinite().all())


def test_a_render_that_is_not_finite_is_named():
    run = Run(red(), shapes())
    with torch.no_grad():
        run.representation.particles[4].view(-1)[0] = float("nan")
    before = copy(run)
    with pytest.raises(NonFiniteError, match="the render or its encoding"):
        run.advance()
    assert all(
        torch.equal(before[k].nan_to_num(7.0), v.nan_to_num(7.0)) for k, v in copy(run).items()
    )


class Stretched(Representation):
    """x0 = a million times the parameter, squared away: finite x0, gradient beyond float32."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.full((1, 3, 8, 8), 1e-30))

    def render(self, view):
        return Render((self.a * 1e30) * 1e10 * 1e-10, "latent")

    def param_groups(self):
        return [{"params": [self.a], "lr": 0.1}]


@dataclass(frozen=True)
class Stretching(RepresentationConfig):
    def build(self, prior, particles, seed):
        return Stretched()


@dataclass(frozen=True)
class Steep(StatelessMethod):
    def __call__(self, prior, sample, state):
        return torch.full_like(sample.x0, 1e10)


def test_a_gradient_that_overflows_on_its_way_back_is_named():
    run = Run(
        red(
            prompts=("red disc",),
            particles=1,
            method=Steep(),
            representation=Stretching(),
            weight=UniformWeight(),
        ),
        shapes(),
    )
    before = copy(run)
    with pytest.raises(NonFiniteError, match="the gradient of the parameters"):
        run.advance()
    assert same(copy(run), before)


def test_a_run_that_failed_can_be_looked_at_and_goes_on_unharmed():
    """After a failure that was none of the particles' doing the same run continues as if it had not happened."""
    prior = Failing(shapes(), float("nan"), 2)
    run, clean = Run(red(optimizer=SGD()), prior), Run(red(optimizer=SGD()), shapes())
    for _ in range(2):
        run.advance()
        clean.advance()
    with pytest.raises(NonFiniteError):
        run.advance()
    prior.left = 1000
    for _ in range(3):
        run.advance()
        clean.advance()
    assert same(copy(run), copy(clean))


def test_figures_say_what_they_claim():
    run = Run(
        red(optimizer=SGD(), representation=Latents(0.1), timesteps=FixedTimesteps(0.4)), shapes()
    )
    before = torch.cat([p.detach().flatten().clone() for p in run.representation.parameters()])
    step = run.advance()
    moved = torch.cat([p.detach().flatten() for p in run.representation.parameters()]) - before
    s, f = step.inputs, {k: float(v) for k, v in step.metrics.items()}
    direction = SDS(5.0)(run.prior, s, run.state)
    assert abs(f["residual"] - float(direction.square().mean().sqrt())) < 1e-6
    assert abs(f["gradient"] - float(step.gradient.square().mean().sqrt())) < 1e-6
    assert abs(f["parameters"] / float(moved.norm() / 0.1) - 1) < 1e-4
    assert abs(f["weight"] - float(s.schedule.sigma(s.t)[0] ** 2)) < 1e-12
    assert abs(f["t"] - 0.4) < 1e-6


class Knowing:
    """A denoiser that knows the one particle there is, with a weight that changes nothing."""

    def __init__(self, x0, schedule):
        self.x0, self.schedule, self.nothing = (
            x0,
            schedule,
            torch.nn.Parameter(torch.zeros(()).double()),
        )

    def __call__(self, xt, t, told):
        alpha, sigma = expand(self.schedule.alpha(t), xt), expand(self.schedule.sigma(t), xt)
        x0 = self.x0.expand_as(xt)
        return [Prediction(x0 + self.nothing, (xt - alpha * x0) / sigma + self.nothing)]


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_what_a_critic_is_taught_is_what_the_exact_denoiser_says(kind):
    """Denoising score matching: on one particle the exact denoiser has no loss left, in any parametrisation."""
    prior, x0 = shapes(), normal(1, 3, 8, 8)
    told = Conditions(prior.condition(["red disc"] * 6), prior.condition([""] * 6))
    s = make_inputs(prior.schedule, x0.expand(6, -1, -1, -1), 0.5, normal(6, 3, 8, 8), told)
    right, wrong = Knowing(x0, prior.schedule), Knowing(x0 + 0.1, prior.schedule)
    loss = lambda q: float(
        CriticTrainer([q.nothing], CriticTraining(lr=0.0, steps=3), kind).fit(q, s)["critic"]
    )  # noqa: E731
    assert loss(right) < 1e-24
    assert loss(wrong) > 1e-4


def test_the_small_critic_learns():
    """Measured where nothing is drawn anew, against the closed form over the same particles."""
    prior, x0 = shapes(), 0.2 * normal(4, 3, 8, 8, dtype=torch.float32)
    told = Conditions(prior.condition(["red disc"] * 4), prior.condition([""] * 4))
    start = SetupContext(4, 1, 0, x0)
    critic, exact = (
        SmallUNetCritic(8, CriticTraining(lr=1e-2)).build(prior, start),
        ExactCritic().build(prior, start),
    )
    t = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    s = make_inputs(prior.schedule, x0, t, normal(4, 3, 8, 8, seed=1, dtype=torch.float32), told)

    def error() -> float:
        with torch.no_grad():
            a, b = (c.prior()(s.xt, s.t, told.pos)[0].x0 for c in (critic, exact))
        return float((a - b).square().mean())

    before = error()
    for _ in range(40):
        critic.fit(s)
    assert error() < 0.55 * before


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": ()},
        {"prompts": ("a", "")},
        {"particles": 0},
        {"steps": 0},
        {"batch": 7},
        {"batch": -1},
        {"seed": -1},
    ],
)
def test_experiments_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options)).rstrip("s")):
        red(**options)
