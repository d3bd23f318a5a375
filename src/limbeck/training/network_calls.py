"""Network passes of a method, counted by running it for a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.diffusion.prior import Prior
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.methods.base import Method
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

PARTICLES, STEPS = 1, 2


@dataclass(frozen=True)
class _Noise(Latents):
    """Latents in the place of the noise that belongs to a picture: for counting, any will do."""

    contents = "noise"


@dataclass(frozen=True)
class Count:
    """Per step: calls of the prior's network; per particle and step: rows through it without a graph, and with one. They may
    vary over a run, hence least and greatest."""

    calls: tuple[float, float]
    rows: tuple[float, float]
    trained: tuple[float, float]


def counted(
    method: Method, prior: Prior, prompt: str = "a red mug", source: str = "a blue mug"
) -> Count:
    """Passes of each of ``STEPS`` steps at t = .6, as an edit of ``source`` where the method is one; raises as the method does."""
    what = _Noise() if method.optimizes == "noise" else Latents()
    common: dict[str, Any] = {
        "particles": PARTICLES,
        "steps": STEPS,
        "timesteps": FixedTimesteps(0.6),
    }
    run = Run(
        Experiment(
            (prompt,), source_prompt=(source,), method=method, representation=what, **common
        ),
        prior,
    )
    seen: list[tuple[float, float, float]] = []
    for _ in range(STEPS):
        meter = prior.meter
        before = meter.calls, meter.rows, meter.grad_rows
        run.advance()
        rows, trained = meter.rows - before[1], meter.grad_rows - before[2]
        seen.append((meter.calls - before[0], (rows - trained) / PARTICLES, trained / PARTICLES))
    return Count(*(_range([one[i] for one in seen]) for i in range(3)))


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
