"""Times that only the step decides, the same for every row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.distillation.timesteps.base import (
    RangeTimesteps,
    ScheduledTimesteps,
    check_ordered,
    training_progress,
)


@dataclass(frozen=True)
class LinearTimesteps(RangeTimesteps, ScheduledTimesteps):
    """From ``high`` down to ``low`` in a line (DreamGaussian, SDI, CFD in 2D).

    low: last time. high: first time.
    """

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return self.high - (self.high - self.low) * training_progress(step, steps)


@dataclass(frozen=True)
class QuadraticTimesteps(RangeTimesteps, ScheduledTimesteps):
    """The square of a line from sqrt(high) to sqrt(low): quickly through noise, slowly near the data (prolific_dreamer2d).

    low: last time. high: first time.
    """

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        first, last = self.high**0.5, self.low**0.5
        return min(
            max((first + (last - first) * training_progress(step, steps)) ** 2, self.low), self.high
        )


@dataclass(frozen=True)
class HiFATimesteps(RangeTimesteps, ScheduledTimesteps):
    """high - (high - low) p^power, p the progress; power 1/2 is HiFA's square root (Zhu and Zhuang 2023).

    low: last time; HiFA's code warns of less than .3. high: first time. power: of the progress; above 1 stays long at noise.
    """

    name = "hifa"

    low: float = 0.3
    power: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power < float("inf"):
            raise ValueError(f"power must be above 0, not {self.power}")

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return self.high - (self.high - self.low) * training_progress(step, steps) ** self.power


@dataclass(frozen=True)
class FixedTimesteps(ScheduledTimesteps):
    """One time for the whole run.

    at: that time.
    """

    at: float = 0.5

    def __post_init__(self) -> None:
        check_ordered(self.at, self.at)

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return self.at


def _table(at: tuple[float, ...], times: tuple[float, ...]) -> None:
    if len(at) != len(times) or not at:
        raise ValueError(
            f"at and times must have one value each per knot, at least one, not {len(at)} and {len(times)}"
        )
    if (
        at[0] != 0
        or not all(a < b for a, b in zip(at, (*at[1:], float("inf")), strict=True))
        or at[-1] > 1
    ):
        raise ValueError(
            f"at must grow from 0 and stay within 1, the end of the run, not {', '.join(map(str, at))}"
        )
    for time in times:
        if not 0 <= time <= 1:
            raise ValueError(f"times must lie in [0, 1], not {time}")


@dataclass(frozen=True)
class PiecewiseTimesteps(ScheduledTimesteps):
    """Straight lines between knots, level after the last one (the defaults are CFD's in 3D; also 2d-sds).

    at: shares of the run, growing from 0. times: the time at each.
    """

    at: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0)
    times: tuple[float, ...] = (0.98, 0.692, 0.404, 0.212)

    def __post_init__(self) -> None:
        _table(self.at, self.times)

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        p = training_progress(step, steps)
        knots = list(zip(self.at, self.times, strict=True))
        for (a, first), (b, last) in pairwise(knots):
            if p < b:
                return first + (last - first) * (p - a) / (b - a)
        return self.times[-1]


@dataclass(frozen=True)
class SteppingTimesteps(ScheduledTimesteps):
    """Level stretches: each time holds from its share of the run to the next (2d-sds).

    at: shares of the run, growing from 0. times: the time from each on.
    """

    at: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    times: tuple[float, ...] = (0.8, 0.6, 0.4, 0.2)

    def __post_init__(self) -> None:
        _table(self.at, self.times)

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        # the same test as TwoStage's switch
        return [time for at, time in zip(self.at, self.times, strict=True) if step >= at * steps][
            -1
        ]


@dataclass(frozen=True)
class PolynomialTimesteps(ScheduledTimesteps):
    """c0 + c1 p + c2 p^2 + ..., p the progress from 0 to 1 (2d-sds). The default is level at both ends.

    coefficients: c0, c1, ... . The polynomial must stay within [0, 1].
    """

    coefficients: tuple[float, ...] = (0.98, 0.0, -2.88, 1.92)

    def __post_init__(self) -> None:
        for i in range(1001):
            if not -1e-9 <= self._value(i / 1000) <= 1 + 1e-9:
                raise ValueError(
                    f"the polynomial must stay within [0, 1] on the run, but is {self._value(i / 1000):.4g} at share {i / 1000}"
                )

    def _value(self, p: float) -> float:
        value = 0.0
        for c in reversed(self.coefficients):
            value = value * p + c
        return value

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        return min(
            max(self._value(training_progress(step, steps)), 0.0), 1.0
        )  # between checked points it may be out by little
