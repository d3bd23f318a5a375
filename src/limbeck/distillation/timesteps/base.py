"""Base classes of timesteps: which time each row gets at each step."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.system.random import RowRandom


def check_ordered(t_min: float, t_max: float, prefix: str = "") -> None:
    """Raise ValueError unless 0 <= t_min <= t_max <= 1.

    Args:
        t_min: smallest time.
        t_max: largest time.
        prefix: prefix of the two names in the message, as ``late_``.
    """
    if not 0 <= t_min <= t_max <= 1:
        low, high = f"{prefix}t_min", f"{prefix}t_max"
        raise ValueError(
            f"times must satisfy 0 <= {low} <= {high} <= 1, not {low} {t_min}, {high} {t_max}"
        )


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` of the option ``name`` is a fraction of training."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a fraction of training in [0, 1], not {value}")


def training_progress(step: int, steps: int) -> float:
    """Progress of training: 0 at the first step, 1 at the last."""
    return step / max(steps - 1, 1)


@dataclass(frozen=True)
class Timesteps(abc.ABC):
    """Times in [0, 1], one per row; 0 is data, 1 is noise."""

    @abc.abstractmethod
    def __call__(
        self, step: int, steps: int, rows: int, schedule: NoiseSchedule, rng: RowRandom
    ) -> Float[Tensor, "b"]:
        """Times of one step.

        Args:
            step: current step, from 0.
            steps: number of steps of the run.
            rows: number of rows.
            schedule: noise schedule of the prior.
            rng: random numbers of the rows.

        Returns:
            Times ``[rows]``, float32 on the CPU.
        """


@dataclass(frozen=True)
class RangeTimesteps(Timesteps):
    """Times within a range.

    Attributes:
        t_min: smallest time, in [0, t_max].
        t_max: largest time, in [t_min, 1].
    """

    t_min: float = 0.02
    t_max: float = 0.98

    def __post_init__(self) -> None:
        check_ordered(self.t_min, self.t_max)


@dataclass(frozen=True)
class RandomTimesteps(Timesteps):
    """Times drawn within bounds that depend on the step only.

    Attributes:
        per_row: draw one time per row. Off: one for all rows of a step, as the 2D codes do.
        per_group: with ``per_row``, the views of a group (``--cameras around``) share their time.
    """

    per_row: bool = field(default=True, kw_only=True)
    per_group: bool = field(default=True, kw_only=True)

    @abc.abstractmethod
    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        """Bounds of the draw.

        Args:
            step: current step, from 0.
            steps: number of steps of the run.

        Returns:
            The smallest and the largest time.
        """

    def unit_samples(self, rng: RowRandom) -> Float[Tensor, "b"]:
        """Draw samples in [0, 1] that are scaled to the bounds; uniform by default.

        Args:
            rng: random numbers of the rows.
        """
        return rng.uniform("t")

    def __call__(
        self, step: int, steps: int, rows: int, schedule: NoiseSchedule, rng: RowRandom
    ) -> Float[Tensor, "b"]:
        t_min, t_max = self.bounds(step, steps)
        if not self.per_row:
            rng = rng.per_step
        elif self.per_group:
            rng = rng.per_group
        samples = self.unit_samples(rng)
        # clamped, as rounding could exceed the bounds
        t = (t_min + (t_max - t_min) * samples).clamp(t_min, t_max)
        return t if self.per_row else t.repeat(rows)


@dataclass(frozen=True)
class ScheduledTimesteps(Timesteps):
    """One deterministic time per step, the same for all rows."""

    @abc.abstractmethod
    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        """The time of one step.

        Args:
            step: current step, from 0.
            steps: number of steps of the run.
            schedule: noise schedule of the prior.
        """

    def __call__(
        self, step: int, steps: int, rows: int, schedule: NoiseSchedule, rng: RowRandom
    ) -> Float[Tensor, "b"]:
        return torch.full((rows,), self.time(step, steps, schedule))
