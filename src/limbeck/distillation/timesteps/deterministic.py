"""Deterministic timesteps: one time per step, the same for every row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.distillation.timesteps.base import (
    RangeTimesteps,
    ScheduledTimesteps,
    training_progress,
)


@dataclass(frozen=True)
class LinearTimesteps(RangeTimesteps, ScheduledTimesteps):
    """Linear from t_max to t_min (DreamGaussian, SDI, CFD in 2D).

    Attributes:
        t_min: last time.
        t_max: first time.
    """

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return self.t_max - (self.t_max - self.t_min) * training_progress(step, steps)


@dataclass(frozen=True)
class QuadraticTimesteps(RangeTimesteps, ScheduledTimesteps):
    """sqrt(t) linear from sqrt(t_max) to sqrt(t_min): fast at noise, slow near data.

    This is ``descend_quad`` of prolific_dreamer2d.

    Attributes:
        t_min: last time.
        t_max: first time.
    """

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        first, last = self.t_max**0.5, self.t_min**0.5
        t = (first + (last - first) * training_progress(step, steps)) ** 2
        return min(max(t, self.t_min), self.t_max)


@dataclass(frozen=True)
class TrailingTimesteps(ScheduledTimesteps):
    """The times of a sampler from t_start to 0: t_start (N - k) / N at step k of N (FlowEdit).

    Attributes:
        t_start: first time, above 0; the last one is t_start / N.
    """

    t_start: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.t_start <= 1:
            raise ValueError(f"t_start must lie in (0, 1], not {self.t_start}")

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return self.t_start * (steps - step) / steps


@dataclass(frozen=True)
class HiFATimesteps(RangeTimesteps, ScheduledTimesteps):
    """t_max - (t_max - t_min) p^power, p the training progress (HiFA).

    Attributes:
        t_min: last time; HiFA's code warns below 0.3.
        t_max: first time.
        power: power of the progress, above 0; 1/2 is HiFA's square root, above 1 stays long at
            noise.

    References:
        Zhu & Zhuang 2023, arXiv 2305.18766.
    """

    name = "hifa"

    t_min: float = 0.3
    power: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power < float("inf"):
            raise ValueError(f"power must be positive and finite, not {self.power}")

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return self.t_max - (self.t_max - self.t_min) * training_progress(step, steps) ** self.power


@dataclass(frozen=True)
class FixedTimesteps(ScheduledTimesteps):
    """The same time at every step.

    Attributes:
        t: that time, in [0, 1].
    """

    t: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.t <= 1:
            raise ValueError(f"t must lie in [0, 1], not {self.t}")

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return self.t


def _check_milestones(milestones: tuple[float, ...], times: tuple[float, ...]) -> None:
    if len(milestones) != len(times) or not milestones:
        raise ValueError(
            "milestones and times must have the same length, at least 1, "
            f"not {len(milestones)} and {len(times)}"
        )
    increasing = all(a < b for a, b in pairwise((*milestones, float("inf"))))
    if milestones[0] != 0 or not increasing or milestones[-1] > 1:
        raise ValueError(
            "milestones must increase from 0 and not exceed 1, the end of training, "
            f"not {', '.join(map(str, milestones))}"
        )
    for time in times:
        if not 0 <= time <= 1:
            raise ValueError(f"times must lie in [0, 1], not {time}")


@dataclass(frozen=True)
class PiecewiseLinearTimesteps(ScheduledTimesteps):
    """Linear between milestones, constant after the last one (2d-sds).

    The defaults are those of CFD in 3D.

    Attributes:
        milestones: fractions of training, increasing from 0.
        times: time at each milestone.
    """

    milestones: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0)
    times: tuple[float, ...] = (0.98, 0.692, 0.404, 0.212)

    def __post_init__(self) -> None:
        _check_milestones(self.milestones, self.times)

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        progress = training_progress(step, steps)
        knots = list(zip(self.milestones, self.times, strict=True))
        for (start, first), (end, last) in pairwise(knots):
            if progress < end:
                return first + (last - first) * (progress - start) / (end - start)
        return self.times[-1]


@dataclass(frozen=True)
class PiecewiseConstantTimesteps(ScheduledTimesteps):
    """Each time from its milestone to the next (``stepping`` of 2d-sds).

    Attributes:
        milestones: fractions of training, increasing from 0.
        times: time from each milestone on.
    """

    milestones: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    times: tuple[float, ...] = (0.8, 0.6, 0.4, 0.2)

    def __post_init__(self) -> None:
        _check_milestones(self.milestones, self.times)

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        # a milestone is passed as in TwoStageTimesteps
        passed = [
            time
            for milestone, time in zip(self.milestones, self.times, strict=True)
            if step >= milestone * steps
        ]
        return passed[-1]


@dataclass(frozen=True)
class PolynomialTimesteps(ScheduledTimesteps):
    """c0 + c1 p + c2 p^2 + ..., p the training progress (2d-sds). The default is flat at both ends.

    Attributes:
        coefficients: c0, c1, ...; the polynomial must stay within [0, 1] for p in [0, 1].
    """

    coefficients: tuple[float, ...] = (0.98, 0.0, -2.88, 1.92)

    def __post_init__(self) -> None:
        for i in range(1001):
            progress = i / 1000
            value = self._evaluate(progress)
            if not -1e-9 <= value <= 1 + 1e-9:
                raise ValueError(
                    "the polynomial must stay within [0, 1] during training, "
                    f"but is {value:.4g} at progress {progress}"
                )

    def _evaluate(self, progress: float) -> float:
        value = 0.0
        for coefficient in reversed(self.coefficients):
            value = value * progress + coefficient
        return value

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        # clamped, as it may leave [0, 1] slightly between the points that were checked
        return min(max(self._evaluate(training_progress(step, steps)), 0.0), 1.0)
