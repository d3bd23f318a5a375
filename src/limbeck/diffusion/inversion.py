"""DDIM between arbitrary times, towards noise (inversion) or towards data, each row at its own."""

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
from limbeck.system.random import RowRandom


def ddim_times(
    schedule: NoiseSchedule, end: Float[Tensor, "b"], start: float, steps: int
) -> list[Float[Tensor, "b"]]:
    """Times from ``start`` to the ``end`` of each row, in strides of 1 / steps.

    The last stride of a row may be shorter. Rows that reach their end early repeat it, so that all
    rows have steps + 1 times.

    Args:
        schedule: noise schedule, whose times the strides are rounded to.
        end: last time of each row.
        start: first time: 0 (data) or 1 (noise).
        steps: strides into which the whole schedule [0, 1] is divided.

    Returns:
        steps + 1 times ``[B]``.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    bound = torch.minimum if start < 0.5 else torch.maximum
    uniform = (schedule.snap(torch.full_like(end, abs(start - k / steps))) for k in range(steps))
    return [*(bound(time, end) for time in uniform), end]


def ddim_times_before(
    schedule: NoiseSchedule, end: Float[Tensor, "b"], stride: float, max_steps: int
) -> list[Float[Tensor, "b"]]:
    """Times up to the ``end`` of each row, from ``max_steps`` strides before it.

    They do not start below 0. The last stride ends at ``end``; it may be shorter or empty.

    Args:
        schedule: noise schedule, whose times the strides are rounded to.
        end: last time of each row.
        stride: difference of consecutive times.
        max_steps: number of strides.

    Returns:
        max_steps + 1 times ``[B]``.
    """
    times = [schedule.snap((end - max_steps * stride).clamp_min(0))]
    for steps_left in reversed(range(max_steps)):
        times.append(torch.minimum(schedule.snap(times[-1] + stride), end) if steps_left else end)
    return times


def run_ddim(
    prior: Prior,
    x: Float[Tensor, "b ..."],
    conditions: Conditions,
    times: Sequence[Float[Tensor, "b"]],
    guidance: float,
    eta: float = 0.0,
    rng: RowRandom | None = None,
) -> Float[Tensor, "b ..."]:
    """Move x from ``times[0]`` to ``times[-1]`` by DDIM, one guided prediction per stride.

    Rows whose stride is empty are skipped. With times on the CPU this needs no device sync.

    Args:
        prior: the denoiser.
        x: sample of each row at ``times[0]``.
        conditions: conditions of each row; ``denoise_steps`` is ignored.
        times: consecutive times ``[B]``, towards noise or towards data.
        guidance: guidance scale s.
        eta: scale of the noise added after every stride towards noise, in units of
            ``posterior_std`` (as in the code of SDI). 0: deterministic.
        rng: random numbers of the rows, for that noise; needed unless eta is 0.

    Returns:
        The sample of each row at ``times[-1]``.

    References:
        Song et al. 2020, arXiv 2010.02502, eq. 12 (DDIM).
    """
    schedule, conditions = prior.schedule, replace(conditions, denoise_steps=1)
    for stride, (current, following) in enumerate(pairwise(times)):
        rows = (current != following).nonzero().flatten()
        if len(rows) == 0:
            continue
        device_rows, t, s = (
            to_device(part, x.device) for part in (rows, current[rows], following[rows])
        )
        prediction = guided_prediction(prior, x[device_rows], t, conditions[device_rows], guidance)
        moved = schedule.add_noise(prediction.x0, prediction.eps, s)
        if eta > 0:
            assert rng is not None
            new = rng[rows.cpu()].normal(f"stride {stride}", *moved.shape[1:])
            noise = to_device(new, moved.device).to(moved)
            moved = moved + eta * expand(posterior_std(schedule, t, s), moved) * noise
        x = x.index_copy(0, device_rows, moved)
    return x


def posterior_std(
    schedule: NoiseSchedule, t: Float[Tensor, "b"], noisier_t: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Standard deviation of x_t given x_0 and x at ``noisier_t``, on any schedule.

    It is sigma_t / sigma_r (sigma_r^2 - (alpha_r / alpha_t)^2 sigma_t^2)^(1/2) with r for
    ``noisier_t``; where alpha^2 + sigma^2 = 1, that is eq. 16 of DDIM at eta 1.

    Args:
        schedule: noise schedule.
        t: time of each row.
        noisier_t: later time of each row.

    References:
        Song et al. 2020, arXiv 2010.02502, eq. 16.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    noisier_alpha, noisier_sigma = schedule.alpha(noisier_t), schedule.sigma(noisier_t)
    variance = (noisier_sigma**2 - (noisier_alpha * sigma / alpha) ** 2).clamp_min(0)
    return sigma / noisier_sigma * variance.sqrt()


def implied_noise(
    schedule: NoiseSchedule,
    x0: Float[Tensor, "b ..."],
    xt: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
) -> Float[Tensor, "b ..."]:
    """The noise that takes x_0 to x_t: (x_t - alpha x_0) / sigma.

    Args:
        schedule: noise schedule.
        x0: clean samples.
        xt: x_t of each row.
        t: time of each row.
    """
    return (xt - expand(schedule.alpha(t), x0) * x0) / expand(schedule.sigma(t), x0)
