"""When: how the time of each row is drawn at each step. Frozen dataclasses: their fields are their options."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def _in_order(low: float, high: float) -> None:
    if not 0 <= low <= high <= 1:
        raise ValueError(f"times must satisfy 0 <= low <= high <= 1, not low {low}, high {high}")


@dataclass(frozen=True)
class Timesteps(abc.ABC):
    """Times in [0, 1], one per row."""

    @abc.abstractmethod
    def __call__(self, step: int, steps: int, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        """Times of ``rows`` rows at ``step`` of ``steps``, float32 on the CPU."""


def _uniform(low: float, high: float, rows: int, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(rows, generator=rng)


@dataclass(frozen=True)
class Uniform(Timesteps):
    """U(low, high) for every row (DreamFusion: .02 to .98).

    low: least time. high: greatest time.
    """

    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        _in_order(self.low, self.high)

    def __call__(self, step: int, steps: int, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        return _uniform(self.low, self.high, rows, rng)


@dataclass(frozen=True)
class TwoStage(Timesteps):
    """U(low, high), and U(low, late) after a share ``switch`` of the run (ProlificDreamer: .5 after 5k of 25k steps in 3D).

    low: least time. high: greatest time at first. late: greatest time later. switch: share of the run after which it is later.
    """

    low: float = 0.02
    high: float = 0.98
    late: float = 0.5
    switch: float = 0.5

    def __post_init__(self) -> None:
        _in_order(self.low, self.high)
        _in_order(self.low, self.late)
        if not 0 <= self.switch <= 1:
            raise ValueError(f"switch is a share of the run in [0, 1], not {self.switch}")

    def __call__(self, step: int, steps: int, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        return _uniform(self.low, self.high if step < self.switch * steps else self.late, rows, rng)


@dataclass(frozen=True)
class Linear(Timesteps):
    """From ``high`` down to ``low``, the same for every row, nothing drawn (DreamGaussian, SDI).

    low: last time. high: first time.
    """

    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        _in_order(self.low, self.high)

    def __call__(self, step: int, steps: int, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        return torch.full((rows,), self.high - (self.high - self.low) * step / max(steps - 1, 1))


@dataclass(frozen=True)
class Fixed(Timesteps):
    """One time for the whole run.

    at: that time.
    """

    at: float = 0.5

    def __post_init__(self) -> None:
        _in_order(self.at, self.at)

    def __call__(self, step: int, steps: int, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        return torch.full((rows,), self.at)
