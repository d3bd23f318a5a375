"""When: the time of each row at each step. Frozen dataclasses: their fields are their options; ``timesteps/`` has the choices."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule


def check_ordered(low: float, high: float) -> None:
    """Raise ValueError unless 0 <= low <= high <= 1."""
    if not 0 <= low <= high <= 1:
        raise ValueError(f"times must satisfy 0 <= low <= high <= 1, not low {low}, high {high}")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a share of the run."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share of the run in [0, 1], not {value}")


def training_progress(step: int, steps: int) -> float:
    """0 at the first step, 1 at the last one."""
    return step / max(steps - 1, 1)


@dataclass(frozen=True)
class Timesteps(abc.ABC):
    """Times in [0, 1], one per row."""

    @abc.abstractmethod
    def __call__(
        self, step: int, steps: int, rows: int, schedule: NoiseSchedule, rng: torch.Generator
    ) -> Float[Tensor, "b"]:
        """Times of ``rows`` rows at ``step`` of ``steps`` under the noise ``schedule``, float32 on the CPU."""


@dataclass(frozen=True)
class RangeTimesteps(Timesteps):
    """Times of a range.

    low: least time. high: greatest time.
    """

    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        check_ordered(self.low, self.high)


@dataclass(frozen=True)
class RandomTimesteps(Timesteps):
    """Times drawn between bounds that only the step decides.

    per_row: draw every row's own time; otherwise one for all rows of the step, as the 2D codes do.
    """

    per_row: bool = field(default=True, kw_only=True)

    @abc.abstractmethod
    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        """The least and the greatest time that may be drawn at ``step`` of ``steps``."""

    def unit(self, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        """Places between the bounds, from 0 to 1."""
        return torch.rand(rows, generator=rng)

    def __call__(
        self, step: int, steps: int, rows: int, schedule: NoiseSchedule, rng: torch.Generator
    ) -> Float[Tensor, "b"]:
        low, high = self.bounds(step, steps)
        # rounding must not carry a time past its bounds
        times = (low + (high - low) * self.unit(rows if self.per_row else 1, rng)).clamp(low, high)
        return times if self.per_row else times.repeat(rows)


@dataclass(frozen=True)
class ScheduledTimesteps(Timesteps):
    """Nothing drawn: the step decides one time for all rows."""

    @abc.abstractmethod
    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        """The time at ``step`` of ``steps``."""

    def __call__(
        self, step: int, steps: int, rows: int, schedule: NoiseSchedule, rng: torch.Generator
    ) -> Float[Tensor, "b"]:
        return torch.full((rows,), self.time(step, steps, schedule))
