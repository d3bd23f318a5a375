"""DDIM along times of one's choosing, up to noise (inversion) or down to data, every row at its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.tensors import expand, to_device


def inversion_times(
    schedule: NoiseSchedule, end: Float[Tensor, "b"], start: float, steps: int
) -> list[Float[Tensor, "b"]]:
    """Times from ``start`` to ``end`` of each row, in strides of 1 / steps of the whole schedule; the last stride is shorter.

    Rows that are there stay, so that all have steps + 1 times. ``start`` is 0 (data) or 1 (noise).
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    way = torch.minimum if start < 0.5 else torch.maximum
    even = (schedule.snap(torch.full_like(end, abs(start - k / steps))) for k in range(steps))
    return [*(way(time, end) for time in even), end]


def last_strides(
    schedule: NoiseSchedule, end: Float[Tensor, "b"], stride: float, most: int
) -> list[Float[Tensor, "b"]]:
    """Times up to ``end`` of each row, ``most`` strides before it and not before 0; the last stride ends there, shorter or none."""
    times = [schedule.snap((end - most * stride).clamp_min(0))]
    for left in reversed(range(most)):
        times.append(torch.minimum(schedule.snap(times[-1] + stride), end) if left else end)
    return times


def ddim_trajectory(
    prior: Prior,
    x: Float[Tensor, "b ..."],
    told: Conditions,
    times: Sequence[Float[Tensor, "b"]],
    scale: float,
    eta: float = 0.0,
    rng: torch.Generator | None = None,
) -> Float[Tensor, "b ..."]:
    """x, which lies at ``times[0]``, carried to ``times[-1]`` by one guided prediction per stride (Song et al. 2020, eq. 12).

    A row whose stride is nothing is not asked about: times on the CPU tell without waiting for the device. eta: scale of fresh
    noise that is added after every stride upwards, in units of the standard deviation of x at the stride's start given x_0 and its
    end (the code of SDI), drawn by ``rng``.
    """
    schedule, told = prior.schedule, replace(told, denoise_steps=1)
    for now, later in pairwise(times):
        rows = (now != later).nonzero().flatten()
        if len(rows) == 0:
            continue
        at, t, s = (to_device(part, x.device) for part in (rows, now[rows], later[rows]))
        said = guided_prediction(prior, x[at], t, told[at], scale)
        new = schedule.add_noise(said.x0, said.eps, s)
        if eta > 0:
            fresh = to_device(torch.randn(new.shape, generator=rng), new.device).to(new)
            new = new + eta * expand(posterior_std(schedule, t, s), new) * fresh
        x = x.index_copy(0, at, new)
    return x


def posterior_std(
    schedule: NoiseSchedule, now: Float[Tensor, "b"], later: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Standard deviation of x at ``now`` given x_0 and x at the noisier ``later`` (Song et al. 2020, eq. 16)."""
    a, s, b, r = (
        schedule.alpha(now),
        schedule.sigma(now),
        schedule.alpha(later),
        schedule.sigma(later),
    )
    return s / r * (r**2 - (b * s / a) ** 2).clamp_min(0).sqrt()


def implied_noise(schedule: NoiseSchedule, x0: Float[Tensor, "b ..."], xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]
         ) -> Float[Tensor, "b ..."]:  # fmt: skip
    """The noise that makes x_t of x_0: (x_t - alpha x_0) / sigma."""
    return (xt - expand(schedule.alpha(t), x0) * x0) / expand(schedule.sigma(t), x0)
