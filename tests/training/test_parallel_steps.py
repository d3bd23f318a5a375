"""Steps in parallel: exact at threshold 0, the rule of a round, resuming and refusals."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from allowed_times import times_for
from page_blocks import blocks
from small_2d import ALL
from small_3d import small_3d

from limbeck.config.discovery import choices
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.representations.generator import Generator
from limbeck.representations.latents import LatentParticles, Latents
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD, Adam
from limbeck.training.parallel_steps import ParallelSteps
from limbeck.training.trainer import Run

PAGE = Path(__file__).parents[2] / "docs" / "parallel-steps.md"


def make_run(**options) -> Run:
    defaults = {"prompts": ("red disc", "blue ring"), "particles": 2, "steps": 13}
    experiment = Experiment(**defaults | {"method": SDS(5.0)} | options)
    return Run(experiment, colored_shapes(8), pretrain=False)


def copy_tensors(run: Run | ParallelSteps) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.tensors().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_sequential(window: int, threshold: float, **options) -> ParallelSteps:
    """Run both; every iterate and step of the rounds is that of ``Run.advance``, bit for bit."""
    expected, sequential = {}, make_run(**options)
    while sequential.step < sequential.experiment.steps:
        step = sequential.advance()
        expected[step.step] = step, copy_tensors(sequential)
    steps = ParallelSteps(make_run(**options), window, threshold, ema_decay=1.0)
    numbers = []
    while steps.run.step < steps.run.experiment.steps:
        for step in steps.advance():
            numbers.append(step.step)
            assert torch.equal(step.gradient, expected[step.step][0].gradient)
            assert step.metrics == expected[step.step][0].metrics
        assert same(steps.run.tensors(), expected[steps.run.step][1])
    assert numbers == list(range(1, steps.run.step + 1))
    return steps


# Exactness


@pytest.mark.parametrize("window", [3, 40])
@pytest.mark.parametrize("optimizer", [Adam(), SGD(), SGD(momentum=0.9)], ids=repr)
def test_identity_57_at_threshold_0_the_iterates_are_those_of_single_steps(optimizer, window):
    steps = assert_sequential(window, 0.0, optimizer=optimizer)
    assert steps.gradients > steps.run.step >= steps.rounds, "nothing was computed ahead"


@pytest.mark.parametrize("name", ALL)
def test_at_threshold_0_every_2d_representation_is_exact(name):
    assert_sequential(3, 0.0, representation=ALL[name], steps=6)


@pytest.mark.parametrize("name", ["dmtet", "mesh", "paths"])
def test_at_threshold_0_meshes_and_paths_are_exact(name, tmp_path):
    assert_sequential(2, 0.0, representation=small_3d(name, tmp_path), steps=4)


def test_particles_that_a_step_does_not_draw_stay():
    steps = assert_sequential(4, 0.0, particles=3, batch_size=2)
    assert len(steps.run.optimizer.param_groups[0]["params"]) == 6


def test_identity_57_a_window_of_1_takes_single_steps_at_any_threshold():
    steps = assert_sequential(1, float("inf"))
    assert steps.rounds == steps.gradients == 13


#: CDS needs a network with attention; iRFDS optimizes noise
@pytest.mark.parametrize("name", sorted(choices(Method).keys() - {"cds", "irfds"}))
def test_identity_57_a_method_is_exact_or_refused(name):
    cls = choices(Method)[name]
    source = ("red ring",) if issubclass(cls, EditMethod) else ()
    options = {"method": cls(), "prompts": ("red disc",), "source_prompt": source, "steps": 5}
    options["timesteps"] = times_for(cls())
    if make_run(**options).state.tensors():
        with pytest.raises(ValueError, match=f"method {name} keeps a state between steps"):
            ParallelSteps(make_run(**options), 3, 0.0)
    else:
        assert_sequential(3, 0.0, **options)


# The rule of a round


def test_a_large_threshold_takes_the_whole_window_and_another_path():
    steps = ParallelSteps(make_run(), window=5, threshold=1e9)
    assert [len(steps.advance()) for _ in range(3)] == [5, 5, 3]
    assert steps.rounds == 3 and steps.gradients == steps.run.step == 13
    sequential = make_run()
    for _ in range(13):
        sequential.advance()
    assert not same(steps.run.tensors(), sequential.tensors())


def gradient(run: Run, theta: torch.Tensor, step: int) -> torch.Tensor:
    """g_k(theta) of a run with one parameter."""
    (parameter,) = run.representation.parameters()
    with torch.no_grad():
        parameter.copy_(theta)
    run.compute_gradient(step)
    found, parameter.grad = parameter.grad, None
    return found


def test_errors_threshold_and_guesses_are_those_computed_by_hand():
    lr = 0.5
    options = {"optimizer": SGD(), "representation": Latents(lr=lr)}
    run, other = make_run(**options), make_run(**options)
    (parameter,) = run.representation.parameters()
    theta = parameter.detach().clone()

    a1 = theta - lr * gradient(other, theta, 0)
    a2 = a1 - lr * gradient(other, theta, 1)
    a3 = a2 - lr * gradient(other, theta, 2)
    first = [float((a - theta).square().mean()) for a in (a1, a2, a3)]
    assert first[0] < first[1]
    threshold = (first[0] + first[1]) / 2  # the second guess is missed
    steps = ParallelSteps(run, 3, threshold, ema_decay=0.8)
    assert len(steps.advance()) == run.step == 2 and torch.equal(parameter, a2)
    assert steps.errors == pytest.approx(first)
    threshold = 0.8 * threshold + 0.2 * sorted(first)[1]
    assert steps.threshold == pytest.approx(threshold)

    b3 = a2 - lr * gradient(other, a2, 2)  # guesses are a3, and its repetitions
    b4 = b3 - lr * gradient(other, a3, 3)
    b5 = b4 - lr * gradient(other, a3, 4)
    second = [float((b - a3).square().mean()) for b in (b3, b4, b5)]
    taken = next((i for i, error in enumerate(second, 1) if error > threshold), 3)
    assert len(steps.advance()) == taken and steps.errors == pytest.approx(second)
    assert torch.equal(parameter, (b3, b4, b5)[taken - 1])
    assert steps.threshold == pytest.approx(0.8 * threshold + 0.2 * sorted(second)[1])


def test_a_difference_whose_square_float32_cannot_hold_is_an_error():
    tiny = Latents(lr=1e-28, init_std=0.0)
    steps = ParallelSteps(make_run(representation=tiny, optimizer=SGD()), 3, 0.0, ema_decay=1.0)
    assert len(steps.advance()) == 1 and 0 < steps.errors[0] < 1e-50


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit():
    whole = ParallelSteps(make_run(), 4, 1e-4)
    for _ in range(3):
        whole.advance()
    tensors, step = copy_tensors(whole), whole.run.step
    resumed = ParallelSteps(make_run(), 4, 1.0)
    resumed.load(tensors, step)
    while whole.run.step < 13:
        assert len(whole.advance()) == len(resumed.advance())
        assert same(whole.tensors(), resumed.tensors())


# Refusals


def test_a_checkpoint_with_too_few_guesses_is_refused_and_changes_nothing():
    narrow, wide = ParallelSteps(make_run(), 3, 1.0), ParallelSteps(make_run(), 5, 1.0)
    before = copy_tensors(wide)
    narrow.advance()
    message = "holds guesses for 3 steps, and window 5 needs 5: use window 3"
    with pytest.raises(ValueError, match=message):
        wide.load(copy_tensors(narrow), narrow.run.step)
    with pytest.raises(ValueError, match="of a run without parallel steps: load it"):
        wide.load(copy_tensors(narrow.run), narrow.run.step)
    assert same(wide.tensors(), before) and wide.run.step == 0


class RememberedStep(Stateless):
    """A state that is empty until the method has been called."""

    def __init__(self):
        self.last = {}

    def tensors(self):
        return self.last


@dataclass(frozen=True)
class Remembering(Method[RememberedStep]):
    """A direction that depends on how often it was asked for."""

    def init(self, prior, setup):
        return RememberedStep()

    def __call__(self, prior, inputs, state):
        state.last = {"count": state.last.get("count", torch.zeros(())) + 1}
        return inputs.x0.detach() * state.last["count"]


def test_a_state_that_the_first_step_makes_is_refused_before_the_run_moves():
    run = make_run(method=Remembering())
    before = {k: v for k, v in copy_tensors(run).items() if k.startswith("representation")}
    steps = ParallelSteps(run, 3, 0.0)
    with pytest.raises(ValueError, match="keeps a state between steps"):
        steps.advance()
    assert run.step == 0 and all(torch.equal(run.tensors()[k], v) for k, v in before.items())


class CriticOnly(LatentParticles):
    def critic_only_steps(self, step):
        return 1


@dataclass(frozen=True)
class CriticOnlyLatents(Latents):
    def build(self, prior, particles, seed):
        return CriticOnly(torch.zeros(particles, *prior.shape), self.lr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": VSD(5.0, critic=ExactCritic())}, "method vsd keeps a state"),
        ({"representation": Generator()}, "representation generator changes between steps"),
        ({"representation": CriticOnlyLatents()}, "changes between steps by more than gradients"),
    ],
    ids=["critic", "mean weights", "critic only"],
)
def test_what_changes_more_than_the_particles_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ParallelSteps(make_run(**options), 3, 0.0)


@pytest.mark.parametrize("name", ["nerf", "gaussian-splats"])
def test_fields_and_splats_are_refused(name, tmp_path):
    run = make_run(representation=small_3d(name, tmp_path))
    with pytest.raises(ValueError, match=f"representation {name} changes between steps"):
        ParallelSteps(run, 3, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0, "threshold": 1.0}, "window must be an integer from 1, not 0"),
        ({"window": 2.5, "threshold": 1.0}, "window must be an integer from 1, not 2.5"),
        ({"window": 2, "threshold": -1.0}, r"threshold must be at least 0, not -1\.0"),
        ({"window": 2, "threshold": float("nan")}, "threshold must be at least 0, not nan"),
        ({"window": 2, "threshold": 1.0, "ema_decay": 1.5}, r"ema_decay must be in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ParallelSteps(make_run(), **options)


def test_a_finished_run_is_refused():
    steps = ParallelSteps(make_run(steps=2), 2, 1e9)
    steps.advance()
    with pytest.raises(ValueError, match="has taken all its 2 steps"):
        steps.advance()


@dataclass(frozen=True)
class NotANumberAt3(SDS):
    def __call__(self, prior, inputs, state):
        return super().__call__(prior, inputs, state) / (inputs.step != 3)


def test_a_gradient_that_is_not_finite_is_named_with_its_step_and_moves_nothing():
    run = make_run(method=NotANumberAt3(5.0))
    steps = ParallelSteps(run, 3, 0.0, ema_decay=1.0)
    assert len(steps.advance()) == 1
    before = copy_tensors(steps)
    with pytest.raises(NonFiniteError, match="step 3: the direction") as info:
        steps.advance()
    assert info.value.step == 3 and run.step == 1 and same(steps.tensors(), before)


# The page


def test_the_code_of_the_page_runs_as_printed(capsys):
    for block in blocks(PAGE, "python"):
        exec(compile(block.text, PAGE.name, "exec"), {})
    assert "rounds for 200 steps" in capsys.readouterr().out
