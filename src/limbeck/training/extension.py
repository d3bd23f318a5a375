"""Whether a run of some steps is the beginning of the same run of more steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from limbeck.config.discovery import component_name, is_own
from limbeck.config.scheduled_numbers import Schedulable
from limbeck.diffusion.schedule import stable_diffusion_schedule
from limbeck.distillation.timesteps.base import Timesteps, training_progress
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment

_MAX_PROBED = 2000  #: steps at which schedules are compared


def dependence_on_steps(old: Experiment, new: Experiment, done: int) -> str:
    """What would have been different in the steps done if the number of steps had been another.

    Args:
        old: a run.
        new: the run with another number of steps.
        done: number of steps done.

    Returns:
        The reason why the run cannot go on as the new one; empty if its steps are those of the new
        one, bit by bit.
    """
    if not isinstance(old.camera_sampler, NoCamera):
        return "a 3D representation changes with the share of the run that is done"
    for part in (old.representation, old.method, old.grad_transform, old.noise_of_run):
        for component in _own_components(part):
            return f"{component_name(type(component))} is your own and may use the number of steps"
    for name, value in _schedules(old):
        if _differs(value, old.steps, new.steps, done):
            return f"{name} would have been different in the first {done} steps"
    return ""


def _own_components(config: Any) -> Iterator[Any]:
    """The components of one's own in a configuration, without timesteps, which are compared."""
    if not is_dataclass(config) or isinstance(config, Timesteps):
        return
    if is_own(type(config)):
        yield config
    for field in fields(config):
        yield from _own_components(getattr(config, field.name))


def _differs(value: Callable[[int, int], Any], old: int, new: int, done: int) -> bool:
    """Whether a schedule has other values in the steps done if the number of steps is another."""
    stride = -(-done // _MAX_PROBED) or 1
    probed = {*range(0, done, stride), *([done - 1] if done else [])}
    return any(value(step, old) != value(step, new) for step in probed)


def _schedules(e: Experiment) -> Iterator[tuple[str, Callable[[int, int], Any]]]:
    """Everything in 2D that is a function of step and number of steps, with a name for it."""
    gradient = torch.linspace(-30, 30, 64).view(2, -1)
    schedule, particle = stable_diffusion_schedule(), torch.arange(2)
    yield "the learning rate", e.optimizer.lr_factor
    yield "the update rule", lambda k, n: e.method.at(training_progress(k, n)).step_schedule(k, n)
    for part in _with_schedules(e.method):

        def values(step: int, steps: int, part: Schedulable = part) -> dict[str, float]:
            return part.values_at(training_progress(step, steps))

        yield f"the schedule of {', '.join(part.scheduled)}", values
    yield "the gradient transform", lambda k, n: e.grad_transform(gradient, k, n).tolist()
    for timesteps in _timesteps(e):

        def times(step: int, steps: int, timesteps: Timesteps = timesteps) -> list[float]:
            rng = RowRandom.of_step(e.run_seed, step, particle)
            return timesteps(step, steps, 2, schedule, rng).tolist()

        yield "t", times


def _with_schedules(config: Any) -> Iterator[Schedulable]:
    """A configuration and its components, where an option is a schedule."""
    if isinstance(config, Schedulable) and config.scheduled:
        yield config
    if is_dataclass(config):
        for field in fields(config):
            yield from _with_schedules(getattr(config, field.name))


def _timesteps(config: Any) -> Iterator[Timesteps]:
    """The timesteps among the options of a configuration, those of critics too."""
    if isinstance(config, Timesteps):
        yield config
    elif is_dataclass(config):
        for field in fields(config):
            yield from _timesteps(getattr(config, field.name))
