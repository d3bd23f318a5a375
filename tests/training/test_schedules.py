"""Runs whose numbers change: each step is that of a run with the number of this step."""

from __future__ import annotations

import itertools

import pytest
import torch

from limbeck.config.scheduled_numbers import ScheduledNumber
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.training.experiment import Experiment
from limbeck.training.extension import dependence_on_steps
from limbeck.training.optimizers import Adam
from limbeck.training.trainer import Run


def make_run(method: Method, steps: int = 8) -> Run:
    experiment = Experiment(("red disc",), particles=2, steps=steps, method=method)
    return Run(experiment, colored_shapes(8))


def copies(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.tensors().items()}


@pytest.mark.parametrize("method", [SDS, lambda s: VSD(s, critic=ExactCritic())])
def test_two_parts_are_two_runs_bit_by_bit(method) -> None:
    scheduled = make_run(method(ScheduledNumber("15 until .5 then 7.5")))
    first, second = make_run(method(15.0)), make_run(method(7.5))
    for step in range(8):
        if step == 4:
            second.load(copies(first), 4)
        constant = first if step < 4 else second
        metrics = scheduled.advance().metrics
        expected = constant.advance().metrics
        assert metrics.pop("method.guidance") == (15.0 if step < 4 else 7.5)
        assert metrics == expected
    for name, tensor in second.tensors().items():
        assert torch.equal(tensor, scheduled.tensors()[name]), name


def test_a_ramp_has_its_ends_at_the_first_and_the_last_step() -> None:
    run = make_run(SDS(ScheduledNumber("linear 10 4")), steps=4)
    assert [run.advance().metrics["method.guidance"].item() for _ in range(4)] == [10, 8, 6, 4]


def test_the_learning_rate_of_a_critic_follows_its_schedule() -> None:
    def critics(lr: float, steps: int) -> Run:
        critic = SmallUNetCritic(training=CriticTraining(lr))
        run = make_run(VSD(critic=critic), steps=4)
        for _ in range(steps):
            run.advance()
        return run

    def movement(a: dict, b: dict) -> float:
        """Largest change of a weight in one step of Adam, which is at most its learning rate."""
        names = [n for n in a if n.startswith("state.") and n.endswith("weight")]
        return max((a[n] - b[n]).abs().max().item() for n in names)

    run = critics(ScheduledNumber("1e-3 until .5 then 0"), 0)
    tensors = [copies(run)]
    for _ in range(4):
        run.advance()
        tensors.append(copies(run))
    moved = [movement(a, b) for a, b in itertools.pairwise(tensors)]
    assert moved[0] > 5e-4 and moved[1] > 0 and moved[2:] == [0, 0]
    constant = copies(critics(1e-3, 2))
    assert all(torch.equal(constant[name], tensors[2][name]) for name in constant)


def test_a_run_with_a_schedule_cannot_be_extended_after_its_numbers_differ() -> None:
    def experiment(steps: int) -> Experiment:
        method = SDS(ScheduledNumber("9 until .5 then 2"))
        return Experiment(("red disc",), steps=steps, method=method, optimizer=Adam(1.0))

    assert "the schedule of guidance" in dependence_on_steps(experiment(8), experiment(16), 8)
    assert dependence_on_steps(experiment(8), experiment(16), 4) == ""
