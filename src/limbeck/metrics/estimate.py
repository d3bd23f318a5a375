"""A metric with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from limbeck.metrics.intervals import UNBOUNDED, Interval, mean_interval


@dataclass(frozen=True)
class Estimate:
    """A metric, or the difference of two, with its interval.

    Attributes:
        value: its value.
        interval: 95 % interval; None if there are fewer than two units.
        by_unit: the value of each unit that varies in the interval, a prompt or a seed, for paired
            differences; empty for metrics of a whole set.
    """

    value: float
    interval: Interval | None
    by_unit: tuple[float, ...] = field(default=(), repr=False)

    @property
    def num_units(self) -> int:
        """Number of units of a mean; 0 for metrics of a whole set."""
        return len(self.by_unit)

    def __neg__(self) -> Estimate:
        """The difference the other way round."""
        ends = None if self.interval is None else (-self.interval[1], -self.interval[0])
        return Estimate(-self.value, ends, tuple(-value for value in self.by_unit))

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval; never without an interval."""
        low, high = self.interval or (0.0, 0.0)
        return low > 0 or high < 0


def mean_estimate(
    by_unit: Sequence[float], bounds: Interval = UNBOUNDED, is_difference: bool = False
) -> Estimate:
    """The mean over prompts or seeds, with its interval for others of the same kind.

    Args:
        by_unit: one value per prompt or seed, at least one.
        bounds: smallest and largest possible value of the metric; (0, 1) for a share.
        is_difference: whether the values are differences of two values of the metric.
    """
    mean = math.fsum(by_unit) / len(by_unit)
    return Estimate(mean, mean_interval(by_unit, bounds, is_difference), tuple(by_unit))
