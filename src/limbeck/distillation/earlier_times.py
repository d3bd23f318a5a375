"""The times t' and (t + t') / 2 of methods that compare two times of one trajectory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule


def earlier_times(
    schedule: NoiseSchedule, t: Float[Tensor, "b"], stride: float
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Return t' = t - stride and the time between, float64, at ticks of the schedule.

    A time without noise has no posterior: where t' would be one, it is half of t.

    Args:
        schedule: noise schedule.
        t: time of each row.
        stride: distance of t and t', in (0, 1).
    """
    t = t.double()
    prev = schedule.snap((t - stride).clamp_min(0))
    half = schedule.snap((t - stride / 2).clamp_min(0))
    has_noise = schedule.sigma(prev) > 0
    prev = torch.where(has_noise, prev, schedule.snap(t / 2))
    return prev, torch.where(has_noise, half, schedule.snap(0.75 * t))
