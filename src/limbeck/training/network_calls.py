"""Network calls of a method, counted by running it for a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from limbeck.config.discovery import is_own
from limbeck.diffusion.prior import Prior
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.methods.base import Method
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

_PARTICLES = 1
_STEPS = 2
_TRIAL_PARTICLES = 3  #: unlike any size of an image, so that rows do not pass for pixels


@dataclass(frozen=True)
class _NoiseLatents(Latents):
    """Latents that stand for the noise of an image: any values will do for counting."""

    contents = "noise"


@dataclass(frozen=True)
class NetworkCalls:
    """Network calls of a step as (minimum, maximum), because they may vary over a run.

    Attributes:
        calls: calls of the prior's network per step.
        rows: batch rows through it without a graph, per particle and step.
        grad_rows: batch rows through it with a graph, per particle and step.
    """

    calls: tuple[float, float]
    rows: tuple[float, float]
    grad_rows: tuple[float, float]


def count_network_calls(
    method: Method, prior: Prior, prompt: str = "a red mug", source: str = "a blue mug"
) -> NetworkCalls:
    """Count the network calls of two steps of a method at t = 0.6.

    A method of one's own also takes a step of several particles with a t each, because some
    mistakes, such as t of shape [B] times images, show in such a step only.

    Args:
        method: the method.
        prior: the diffusion model.
        prompt: prompt of the run.
        source: source prompt of the run, read by methods that edit. Empty: none.

    Raises:
        ValueError: if the method cannot run with the prior, or its step fails.
    """
    experiment = Experiment(
        (prompt,),
        source_prompt=(source,) if source else (),
        method=method,
        representation=_NoiseLatents() if method.optimizes == "noise" else Latents(),
        timesteps=FixedTimesteps(0.6),
        particles=_PARTICLES,
        steps=_STEPS,
    )
    if is_own(type(method)):
        several = replace(experiment, timesteps=UniformTimesteps(), particles=_TRIAL_PARTICLES)
        Run(several, prior, pretrain=False).advance()
    run, counter = Run(experiment, prior, pretrain=False), prior.call_counter
    counts: list[tuple[float, float, float]] = []
    for _ in range(_STEPS):
        calls, rows, grad_rows = counter.calls, counter.rows, counter.grad_rows
        run.advance()
        calls, rows = counter.calls - calls, counter.rows - rows
        grad_rows = counter.grad_rows - grad_rows
        counts.append((calls, (rows - grad_rows) / _PARTICLES, grad_rows / _PARTICLES))
    return NetworkCalls(*(_range(values) for values in zip(*counts, strict=True)))


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
