"""Noise schedules alpha(t), sigma(t) of x_t = alpha_t x_0 + sigma_t eps, for t in [0, 1]."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.tensors import expand


@dataclass(frozen=True)
class NoiseSchedule(abc.ABC):
    """Noise schedule: alpha falls from 1 at t = 0 (data), sigma rises to 1 at t = 1 (noise).

    Methods take times ``[B]`` and return float64 ``[B]``.
    """

    @abc.abstractmethod
    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Scale of the signal."""

    @abc.abstractmethod
    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Scale of the noise."""

    @abc.abstractmethod
    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Time of a log SNR, the inverse of ``log_snr``."""

    def log_snr(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """log(alpha^2 / sigma^2), minus infinity where alpha is 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def add_noise(
        self, x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = alpha_t x_0 + sigma_t eps.

        Args:
            x0: clean samples.
            eps: noise of the same shape.
            t: time of each row.
        """
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * eps

    def snap(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The nearest time at which the model was trained; t itself for continuous schedules."""
        return t

    def sampling_times(self, steps: int) -> Float[Tensor, "steps"]:
        """Falling times of a sampler with ``steps`` calls ("trailing" timestep spacing)."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]


@dataclass(frozen=True)
class DiscreteSchedule(NoiseSchedule):
    """Variance-preserving schedule from a table of abar, with timesteps k = 0 .. T-1 at t = k / T.

    Other times are rounded to the nearest timestep, so that t in [.02, .98] is the papers'
    [20, 980] of 1000. t = 1 is the last timestep, T-1.

    Attributes:
        alphas_cumprod: abar of each timestep, in [0, 1] and never increasing.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        table = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        valid = len(table) >= 2 and bool(((table >= 0) & (table <= 1)).all())
        if not valid or bool((table.diff() > 0).any()):
            raise ValueError(
                "alphas_cumprod must hold at least 2 values in [0, 1] that never increase"
            )

    @staticmethod
    def from_betas(betas: Sequence[float]) -> DiscreteSchedule:
        """Schedule with abar_k = prod_{j <= k} (1 - beta_j)."""
        table = (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
        return DiscreteSchedule(tuple(table.tolist()))

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def _table_on(self, device: torch.device) -> Tensor:
        """The table of abar on ``device``, copied there once."""
        if device not in self._tables:
            table = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
            self._tables[device] = table.to(device)
        return self._tables[device]

    def _abar(self, t: Tensor) -> Tensor:
        return self._table_on(t.device)[self.timestep_index(t)]

    def timestep_index(self, t: Float[Tensor, "b"]) -> Tensor:
        """Integer timestep nearest to t, the index into the table; int64 ``[B]``."""
        last = len(self.alphas_cumprod) - 1
        return (t.double() * (last + 1)).round().long().clamp(0, last)

    def snap(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return self.timestep_index(t).to(t.dtype) / len(self.alphas_cumprod)

    def sampling_times(self, steps: int) -> Float[Tensor, "steps"]:
        total = len(self.alphas_cumprod)
        if not 1 <= steps <= total:
            raise ValueError(
                f"steps must lie in 1 .. {total}, the timesteps of this schedule, not {steps}"
            )
        trailing = (total - torch.arange(steps, dtype=torch.float64) * total / steps).round() - 1
        return trailing / total

    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return self._abar(t).sqrt()

    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (1 - self._abar(t)).sqrt()

    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        # compared as abar, which is finite even where alpha is 0
        abar = torch.sigmoid(log_snr.double())
        distance = (self._table_on(abar.device)[None] - abar[:, None]).abs()
        return distance.argmin(1).double() / len(self.alphas_cumprod)


@dataclass(frozen=True)
class CosineSchedule(NoiseSchedule):
    """Continuous variance-preserving schedule: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    References:
        Nichol & Dhariwal 2021, arXiv 2102.09672, here without offset.
    """

    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (t.double() * (math.pi / 2)).cos()

    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (t.double() * (math.pi / 2)).sin()

    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (-log_snr.double() / 2).exp().atan() * (2 / math.pi)


@dataclass(frozen=True)
class RectifiedFlowSchedule(NoiseSchedule):
    """Rectified flow (SD3, Flux): alpha = 1 - sigma, sigma = s t / (1 + (s - 1) t).

    Attributes:
        shift: timestep shift s, above 0, larger at higher resolution. 1: sigma = t.
        sampling_t_min: time of the last call of a sampler, in [0, 1). 0: trailing spacing, whose
            last call is one step above 0.
        sampling_sigma_min: sigma of the last call of a sampler, in [0, 1). All alphas of the
            sampler are scaled so that it ends there (Qwen-Image). 0: no such scaling.

    References:
        Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206, eq. 23 (shift).
    """

    shift: float = 1.0
    sampling_t_min: float = 0.0
    sampling_sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, not {self.shift}")
        if not 0 <= self.sampling_t_min < 1:
            raise ValueError(f"sampling_t_min must lie in [0, 1), not {self.sampling_t_min}")
        if not 0 <= self.sampling_sigma_min < 1:
            raise ValueError(
                f"sampling_sigma_min must lie in [0, 1), not {self.sampling_sigma_min}"
            )

    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (1 - t.double()) / (1 + (self.shift - 1) * t.double())

    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return self.shift * t.double() / (1 + (self.shift - 1) * t.double())

    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return torch.sigmoid(-log_snr.double() / 2 - math.log(self.shift))

    def sampling_times(self, steps: int) -> Float[Tensor, "steps"]:
        times = torch.linspace(1, self.sampling_t_min, steps, dtype=torch.float64)
        if self.sampling_t_min == 0:
            times = super().sampling_times(steps)
        if self.sampling_sigma_min == 0 or steps == 1:
            return times
        alpha = self.alpha(times)
        sigma = 1 - alpha * (1 - self.sampling_sigma_min) / alpha[-1]
        return sigma / (self.shift - (self.shift - 1) * sigma)


def stable_diffusion_schedule() -> DiscreteSchedule:
    """Schedule of Stable Diffusion 1 and 2.

    1000 timesteps, sqrt(beta) linear from sqrt(.00085) to sqrt(.012) ("scaled_linear").
    """
    sqrt_betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    return DiscreteSchedule.from_betas((sqrt_betas**2).tolist())
