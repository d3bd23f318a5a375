"""The times t' and (t + t') / 2 of methods that compare two times of one trajectory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule

_BELOW_HALF = 1e-9  #: far less than a tick, and far more than the rounding of t


def earlier_times(
    schedule: NoiseSchedule, t: Float[Tensor, "b"], stride: float
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Return t' = t - stride and the time between, float64, at ticks of the schedule.

    Halfway between two ticks both are the earlier one, so that t - t' is the same for every t. A
    time without noise has no posterior: where t' would be one, it is half of t.

    Args:
        schedule: noise schedule.
        t: time of each row.
        stride: distance of t and t', in (0, 1).
    """
    t = t.double()
    prev = _snap_down(schedule, (t - stride).clamp_min(0))
    half = _snap_down(schedule, (t - stride / 2).clamp_min(0))
    has_noise = schedule.sigma(prev) > 0
    prev = torch.where(has_noise, prev, schedule.snap(t / 2))
    return prev, torch.where(has_noise, half, schedule.snap(0.75 * t))


def _snap_down(schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The nearest tick, and of two equally near ones the earlier."""
    return torch.where(schedule.snap(t) == t, t, schedule.snap((t - _BELOW_HALF).clamp_min(0)))
