"""DreamTime: times at which every step spends an equal share of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.distillation.timesteps.base import RangeTimesteps, ScheduledTimesteps
from limbeck.distillation.weights import plateau

_TIMESTEPS = 1000  # grid over which the weight is summed


@dataclass(frozen=True)
class DreamTimeTimesteps(RangeTimesteps, ScheduledTimesteps):
    """t_i = argmin_t |sum of W(u) over u >= t, minus i / N|, W = W_d W_p normalized to sum 1.

    W_d = sigma / alpha; W_p is 1 on [m2, m1] and Gaussian above and below. The schedule already
    applies the weight: with ``--weight uniform`` it is not applied twice.

    Attributes:
        m1: upper end of the plateau of W_p, in [m2, 1].
        m2: lower end of the plateau of W_p, in [0, m1].
        s1: standard deviation of W_p above the plateau, above 0.
        s2: standard deviation of W_p below the plateau, above 0.
        diffusion_weight: include W_d; prolific_dreamer2d leaves it out.

    References:
        Huang et al. 2023, arXiv 2306.12422.
    """

    name = "dreamtime"

    m1: float = 0.8
    m2: float = 0.5
    s1: float = 0.3
    s2: float = 0.1
    diffusion_weight: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.m2 <= self.m1 <= 1:
            raise ValueError(
                f"the plateau must satisfy 0 <= m2 <= m1 <= 1, not m2 {self.m2}, m1 {self.m1}"
            )
        if not (self.s1 > 0 and self.s2 > 0):
            raise ValueError(f"s1 and s2 must be positive, not {self.s1} and {self.s2}")

    def time(self, step: int, steps: int, schedule: NoiseSchedule) -> float:
        times, cumulative = cumulative_weight(self, schedule)
        return float(times[(cumulative - step / steps).abs().argmin()])


@lru_cache(maxsize=16)
def cumulative_weight(
    timesteps: DreamTimeTimesteps, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    """Cumulative weight of DreamTime over the thousandths of [t_min, t_max].

    Args:
        timesteps: the options.
        schedule: noise schedule of the prior.

    Returns:
        Times from t_max down to t_min, and the fraction of the weight at or above each.

    Raises:
        ValueError: if the weights do not have a finite positive sum.
    """
    first, last = round(timesteps.t_max * _TIMESTEPS), round(timesteps.t_min * _TIMESTEPS)
    times = torch.arange(first, last - 1, -1, dtype=torch.float64) / _TIMESTEPS
    weight = plateau(times, timesteps.m1, timesteps.m2, timesteps.s1, timesteps.s2)
    if timesteps.diffusion_weight:
        weight = weight * schedule.sigma(times) / schedule.alpha(times)
    total = weight.sum()
    if not bool(total.isfinite()) or not float(total) > 0:
        raise ValueError(
            f"DreamTime's weight sums to {float(total)} from t_min {timesteps.t_min} to "
            f"t_max {timesteps.t_max}: use a smaller t_max if alpha is 0 at t = 1, or a larger "
            "t_max if sigma is 0 throughout"
        )
    return times, weight.cumsum(0) / total
