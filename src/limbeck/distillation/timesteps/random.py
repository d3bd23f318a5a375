"""Times that are drawn, between bounds that may move during the run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.distillation.timesteps.base import (
    RandomTimesteps,
    RangeTimesteps,
    check_fraction,
    check_ordered,
    training_progress,
)


@dataclass(frozen=True)
class UniformTimesteps(RangeTimesteps, RandomTimesteps):
    """U(low, high) (DreamFusion: .02 to .98)."""

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True)
class TwoStageTimesteps(RangeTimesteps, RandomTimesteps):
    """U(low, high), and U(late_low, late) after a share ``switch`` of the run (ProlificDreamer: .5 after 5k of 25k steps in 3D).

    low: least time at first. high: greatest time at first. late: greatest time later. switch: share of the run after which it is
    later. late_low: least time later, that of the beginning if left out.
    """

    late: float = 0.5
    switch: float = 0.5
    late_low: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordered(self.low if self.late_low is None else self.late_low, self.late)
        check_fraction("switch", self.switch)

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        if step < self.switch * steps:
            return self.low, self.high
        return self.low if self.late_low is None else self.late_low, self.late


@dataclass(frozen=True)
class NStageTimesteps(RangeTimesteps, RandomTimesteps):
    """Stage i of n, each of equal length: U over the lowest (n - i) / n of [low, high] (prolific_dreamer2d's ``t_stages``).

    low: least time. high: greatest time of the first stage. stages: n.
    """

    stages: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages < 1:
            raise ValueError(f"stages must be at least 1, not {self.stages}")

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        stage = min(self.stages * step // steps, self.stages - 1)
        return self.low, self.low + (self.high - self.low) * (self.stages - stage) / self.stages


@dataclass(frozen=True)
class RandomDownTimesteps(RangeTimesteps, RandomTimesteps):
    """U over a window around the line that falls from ``high`` to ``low``, cut off at both ends (prolific_dreamer2d).

    radius: half the window, as a share of high - low.
    """

    radius: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.radius <= 1:
            raise ValueError(f"radius is a share of high - low in [0, 1], not {self.radius}")

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        span = self.high - self.low
        centre = self.high - span * training_progress(step, steps)
        return max(self.low, centre - self.radius * span), min(
            self.high, centre + self.radius * span
        )


@dataclass(frozen=True)
class RandomDecayTimesteps(RangeTimesteps, RandomTimesteps):
    """U between bounds that move from (low, high) to (late_low, late), in a line or by a constant factor per step (2d-sds).

    low: least time at first. high: greatest time at first. late_low: least time at last. late: greatest time at last.
    exponential: by a constant factor, for which all four must be above 0.
    """

    low: float = 0.5
    late_low: float = 0.02
    late: float = 0.2
    exponential: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordered(self.late_low, self.late)
        if self.exponential and min(self.low, self.late_low) <= 0:
            raise ValueError(
                f"an exponential decay needs times above 0, not low {self.low}, late_low {self.late_low}"
            )

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        p = training_progress(step, steps)
        return self._between(self.low, self.late_low, p), self._between(self.high, self.late, p)

    def _between(self, first: float, last: float, p: float) -> float:
        return first ** (1 - p) * last**p if self.exponential else first + (last - first) * p


@dataclass(frozen=True)
class ISMTimesteps(RangeTimesteps, RandomTimesteps):
    """U(low, top), where top falls in a line from ``high`` to ``late`` and stays there (LucidDreamer: 1500 of 5000 steps).

    low: least time. high: greatest time at first. late: greatest time after the warm-up. warm: share of the run that it takes.
    """

    late: float = 0.5
    warm: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordered(self.low, self.late)
        check_fraction("warm", self.warm)

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        left = max(0.0, 1 - step / (self.warm * steps)) if self.warm > 0 else 0.0
        return self.low, self.late + (self.high - self.late) * left


@dataclass(frozen=True)
class LogitNormalTimesteps(RangeTimesteps, RandomTimesteps):
    """low + (high - low) sigmoid(n), n normal: more of the middle (Esser et al. 2024, the training of SD3: 0 to 1).

    mean: of n; above 0 favours noise. spread: standard deviation of n.
    """

    mean: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spread < float("inf") or not abs(self.mean) < float("inf"):
            raise ValueError(
                f"mean must be finite and spread at least 0, not {self.mean} and {self.spread}"
            )

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        return self.low, self.high

    def unit(self, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        return torch.sigmoid(self.mean + self.spread * torch.randn(rows, generator=rng))


@dataclass(frozen=True)
class ShiftedTimesteps(RangeTimesteps, RandomTimesteps):
    """low + (high - low) s u / (1 + (s - 1) u), u uniform: more noise for s > 1 (Esser et al. 2024; RFDS draws so on SD3).

    shift: s; 3 in SD3.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.shift < float("inf"):
            raise ValueError(f"shift must be above 0, not {self.shift}")

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        return self.low, self.high

    def unit(self, rows: int, rng: torch.Generator) -> Float[Tensor, "b"]:
        u = torch.rand(rows, generator=rng)
        return self.shift * u / (1 + (self.shift - 1) * u)
