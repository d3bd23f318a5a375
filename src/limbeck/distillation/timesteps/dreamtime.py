"""DreamTime (Huang et al. 2023, arXiv 2306.12422): time falls so that every step spends an equal share of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.distillation.timesteps.base import RangeTimesteps, ScheduledTimesteps, check_ordered
from limbeck.distillation.weights import plateau

TICKS = 1000  #: the grid on which the mass is summed


@dataclass(frozen=True)
class DreamTimeTimesteps(RangeTimesteps, ScheduledTimesteps):
    """t_i = argmin_t |sum of p(u) over u >= t, minus i / N|, where p is W_d W_p in sum 1 and W_d = sigma / alpha.

    W_p is 1 on [m2, m1] and falls as a Gaussian above and below. The plan spends the weight already; with ``--weight uniform`` it
    is not spent twice.

    m1: where the plateau ends, above. m2: where it ends, below. s1: deviation above. s2:
    deviation below. diffusion: whether W_d is a factor; prolific_dreamer2d leaves it out.
    """

    name = "dreamtime"

    m1: float = 0.8
    m2: float = 0.5
    s1: float = 0.3
    s2: float = 0.1
    diffusion: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordered(self.m2, self.m1)
        if not (self.s1 > 0 and self.s2 > 0):
            raise ValueError(f"s1 and s2 must be above 0, not {self.s1} and {self.s2}")

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        times, above = spent(self, schedule)
        return float(times[(above - step / steps).abs().argmin()])


@lru_cache(maxsize=16)
def spent(how: DreamTimeTimesteps, schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """Times from ``high`` to ``low``, and the share of the weight at or above each."""
    ticks = torch.arange(
        round(how.high * TICKS), round(how.low * TICKS) - 1, -1, dtype=torch.float64
    )
    times = ticks / TICKS
    weight = plateau(times, how.m1, how.m2, how.s1, how.s2)
    if how.diffusion:
        weight = weight * schedule.sigma(times) / schedule.alpha(times)
    total = weight.sum()
    if not bool(total.isfinite()) or not float(total) > 0:
        raise ValueError(
            f"DreamTime's weight from low {how.low} to high {how.high} sums to {float(total)}: "
            f"take a smaller high where the signal ends at t = 1, or a larger high where there is no noise"
        )
    return times, weight.cumsum(0) / total
