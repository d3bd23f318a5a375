"""Random timesteps, within bounds that may change during training."""

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
from limbeck.system.random import RowRandom


@dataclass(frozen=True)
class UniformTimesteps(RangeTimesteps, RandomTimesteps):
    """U(t_min, t_max); .02 to .98 in DreamFusion."""

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        return self.t_min, self.t_max


@dataclass(frozen=True)
class TwoStageTimesteps(RangeTimesteps, RandomTimesteps):
    """U(t_min, t_max), then U(late_t_min, late_t_max) (ProlificDreamer).

    ProlificDreamer in 3D lowers t_max to .5 after 5k of 25k steps.

    Attributes:
        t_min: smallest time of the first stage.
        t_max: largest time of the first stage.
        late_t_max: largest time of the second stage.
        switch_at: fraction of training at which the second stage starts.
        late_t_min: smallest time of the second stage. Left out: ``t_min``.
    """

    late_t_max: float = 0.5
    switch_at: float = 0.5
    late_t_min: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.late_t_min is None and self.late_t_max < self.t_min:
            raise ValueError(
                f"late_t_max {self.late_t_max} is below t_min {self.t_min}: give a larger "
                "late_t_max, or late_t_min"
            )
        check_ordered(*self._late_bounds(), "late_")
        check_fraction("switch_at", self.switch_at)

    def _late_bounds(self) -> tuple[float, float]:
        return self.t_min if self.late_t_min is None else self.late_t_min, self.late_t_max

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        if step < self.switch_at * steps:
            return self.t_min, self.t_max
        return self._late_bounds()


@dataclass(frozen=True)
class NStageTimesteps(RangeTimesteps, RandomTimesteps):
    """n equally long stages; stage i is U over the lowest (n - i) / n of [t_min, t_max].

    This is ``t_stages`` of prolific_dreamer2d.

    Attributes:
        t_min: smallest time.
        t_max: largest time of the first stage.
        num_stages: number of stages n, at least 1.
    """

    num_stages: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, not {self.num_stages}")

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        n = self.num_stages
        stage = min(n * step // steps, n - 1)
        return self.t_min, self.t_min + (self.t_max - self.t_min) * (n - stage) / n


@dataclass(frozen=True)
class RandomDownTimesteps(RangeTimesteps, RandomTimesteps):
    """U over a window around a center that falls linearly from t_max to t_min, cut to the range.

    This is ``random_down`` of prolific_dreamer2d.

    Attributes:
        radius: half the width of the window, as a fraction of t_max - t_min, in [0, 1].
    """

    radius: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.radius <= 1:
            raise ValueError(
                f"radius must be a fraction of t_max - t_min in [0, 1], not {self.radius}"
            )

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        span = self.t_max - self.t_min
        center = self.t_max - span * training_progress(step, steps)
        lower, upper = center - self.radius * span, center + self.radius * span
        return max(self.t_min, lower), min(self.t_max, upper)


@dataclass(frozen=True)
class RandomDecayTimesteps(RangeTimesteps, RandomTimesteps):
    """U between bounds that move from (t_min, t_max) to (late_t_min, late_t_max) (2d-sds).

    Attributes:
        t_min: smallest time at the first step.
        t_max: largest time at the first step.
        late_t_min: smallest time at the end of the decay.
        late_t_max: largest time at the end of the decay.
        decay_end: fraction of training at which the decay ends, above 0; the bounds then stay.
        exponential: change the bounds by a constant factor per step, for which all four must be
            above 0. Off: linearly.
    """

    t_min: float = 0.5
    late_t_min: float = 0.02
    late_t_max: float = 0.2
    exponential: bool = False
    decay_end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordered(self.late_t_min, self.late_t_max, "late_")
        if not 0 < self.decay_end <= 1:
            raise ValueError(
                f"decay_end must be a fraction of training in (0, 1], not {self.decay_end}"
            )
        if self.exponential and min(self.t_min, self.late_t_min) <= 0:
            raise ValueError(
                "an exponential decay needs times above 0, "
                f"not t_min {self.t_min}, late_t_min {self.late_t_min}"
            )

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        progress = min(1.0, training_progress(step, steps) / self.decay_end)
        return (
            self._interpolate(self.t_min, self.late_t_min, progress),
            self._interpolate(self.t_max, self.late_t_max, progress),
        )

    def _interpolate(self, first: float, last: float, progress: float) -> float:
        if self.exponential:
            return first ** (1 - progress) * last**progress
        return first + (last - first) * progress


@dataclass(frozen=True)
class ISMTimesteps(RangeTimesteps, RandomTimesteps):
    """U over a range whose upper end moves linearly from t_max to late_t_max (LucidDreamer).

    Attributes:
        t_min: smallest time.
        t_max: largest time at the first step.
        late_t_max: largest time after the warm-up.
        warmup: fraction of training over which the largest time moves; 1500 of 5000 steps in
            LucidDreamer. 0: late_t_max from the start.
    """

    late_t_max: float = 0.5
    warmup: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.t_min <= self.late_t_max <= 1:
            raise ValueError(
                "times must satisfy 0 <= t_min <= late_t_max <= 1, "
                f"not t_min {self.t_min}, late_t_max {self.late_t_max}"
            )
        check_fraction("warmup", self.warmup)

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        remaining = max(0.0, 1 - step / (self.warmup * steps)) if self.warmup > 0 else 0.0
        return self.t_min, self.late_t_max + (self.t_max - self.late_t_max) * remaining


@dataclass(frozen=True)
class LogitNormalTimesteps(RangeTimesteps, RandomTimesteps):
    """t_min + (t_max - t_min) sigmoid(n), n normal, which favors the middle of the range.

    Training of SD3 draws so, with t_min 0 and t_max 1.

    Attributes:
        logit_mean: mean of n; above 0 favors large t.
        logit_std: standard deviation of n, at least 0.

    References:
        Esser et al. 2024, arXiv 2403.03206.
    """

    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not abs(self.logit_mean) < float("inf"):
            raise ValueError(f"logit_mean must be finite, not {self.logit_mean}")
        if not 0 <= self.logit_std < float("inf"):
            raise ValueError(f"logit_std must be at least 0 and finite, not {self.logit_std}")

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        return self.t_min, self.t_max

    def unit_samples(self, rng: RowRandom) -> Float[Tensor, "b"]:
        return torch.sigmoid(self.logit_mean + self.logit_std * rng.normal("t"))


@dataclass(frozen=True)
class ShiftedTimesteps(RangeTimesteps, RandomTimesteps):
    """t_min + (t_max - t_min) s u / (1 + (s - 1) u), u uniform: larger t for s > 1 (SD3; RFDS).

    Attributes:
        shift: timestep shift s, above 0; 3 in SD3.

    References:
        Esser et al. 2024, arXiv 2403.03206.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.shift < float("inf"):
            raise ValueError(f"shift must be positive and finite, not {self.shift}")

    def bounds(self, step: int, steps: int) -> tuple[float, float]:
        return self.t_min, self.t_max

    def unit_samples(self, rng: RowRandom) -> Float[Tensor, "b"]:
        u = rng.uniform("t")
        return self.shift * u / (1 + (self.shift - 1) * u)
