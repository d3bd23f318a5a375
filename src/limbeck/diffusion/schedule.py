"""Noise schedules: alpha(t) and sigma(t) of the forward process x_t = alpha_t x_0 + sigma_t eps, for t in [0, 1]."""

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
    """alpha falls from 1 at t = 0 (data), sigma grows to 1 at t = 1 (noise). Shapes: t ``[B]`` in, ``[B]`` out, float64."""

    @abc.abstractmethod
    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Scale of the signal."""

    @abc.abstractmethod
    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Scale of the noise."""

    @abc.abstractmethod
    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The inverse of ``log_snr``."""

    def log_snr(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """log(alpha^2 / sigma^2); minus infinity where alpha is 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def add_noise(
        self, x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = alpha_t x_0 + sigma_t eps, row by row."""
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * eps

    def snap(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The nearest time the model was trained at; continuous schedules know every time."""
        return t

    def sampling_times(self, steps: int) -> Float[Tensor, "steps"]:
        """Times of a sampler with ``steps`` calls, falling from the last time ("trailing" spacing)."""
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]


@dataclass(frozen=True)
class Discrete(NoiseSchedule):
    """Variance preserving, from a table: abar_k for ticks k = 0 .. T-1, t = k / T. Times between ticks snap to the nearest.

    The tick is t T, so that t in [.02, .98] is the papers' [20, 980] of 1000; t = 1 is the last tick.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        table = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        if (
            len(table) < 2
            or not bool(((table >= 0) & (table <= 1)).all())
            or bool((table.diff() > 0).any())
        ):
            raise ValueError("alphas_cumprod must hold at least 2 values in [0, 1] that never grow")

    @staticmethod
    def from_betas(betas: Sequence[float]) -> Discrete:
        """abar_k = prod_{j <= k} (1 - beta_j)."""
        return Discrete(tuple((1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0).tolist()))

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self.alphas_cumprod, dtype=torch.float64)

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}

    def _table_on(self, device: torch.device) -> Tensor:
        """The table where it is asked for; a device is given it once."""
        if device not in self._copies:
            self._copies[device] = self._table.to(device)
        return self._copies[device]

    def tick(self, t: Float[Tensor, "b"]) -> Tensor:
        """Index into the table, int64 ``[B]``."""
        last = len(self.alphas_cumprod) - 1
        return (t.double() * (last + 1)).round().long().clamp(0, last)

    def snap(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return self.tick(t).to(t.dtype) / len(self.alphas_cumprod)

    def sampling_times(self, steps: int) -> Float[Tensor, "steps"]:
        total = len(self.alphas_cumprod)
        if not 1 <= steps <= total:
            raise ValueError(
                f"steps must lie in 1 .. {total}, the ticks of this schedule, not {steps}"
            )
        ticks = (total - torch.arange(steps, dtype=torch.float64) * total / steps).round() - 1
        return ticks / total

    def _at(self, t: Tensor) -> Tensor:
        return self._table_on(t.device)[self.tick(t)]

    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return self._at(t).sqrt()

    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (1 - self._at(t)).sqrt()

    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        # compared as abar, which stays finite where the signal ends
        abar = torch.sigmoid(log_snr.double())
        return (self._table_on(abar.device)[None] - abar[:, None]).abs().argmin(1).double() / len(
            self.alphas_cumprod
        )


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """Variance preserving and continuous: alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Nichol & Dhariwal 2021, without offset)."""

    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (t.double() * (math.pi / 2)).cos()

    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (t.double() * (math.pi / 2)).sin()

    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (-log_snr.double() / 2).exp().atan() * (2 / math.pi)


@dataclass(frozen=True)
class RectifiedFlow(NoiseSchedule):
    """Straight paths: alpha = 1 - sigma, sigma = s t / (1 + (s - 1) t) (Liu et al. 2022; SD3, Flux).

    shift: s of the resolution, by which the model spends its times (Esser et al. 2024, arXiv 2403.03206, eq. 23); at 1, sigma = t.
    last: time of a sampler's last call, where it is not one step from the end.
    """

    shift: float = 1.0
    last: float = 0.0

    def __post_init__(self) -> None:
        if not (self.shift > 0 and 0 <= self.last < 1):
            raise ValueError(
                f"shift must be positive and last lie in [0, 1), not {self.shift}, {self.last}"
            )

    def alpha(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (1 - t.double()) / (1 + (self.shift - 1) * t.double())

    def sigma(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return self.shift * t.double() / (1 + (self.shift - 1) * t.double())

    def inverse_log_snr(self, log_snr: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return torch.sigmoid(-log_snr.double() / 2 - math.log(self.shift))

    def sampling_times(self, steps: int) -> Float[Tensor, "steps"]:
        return (
            torch.linspace(1, self.last, steps, dtype=torch.float64)
            if self.last
            else super().sampling_times(steps)
        )


def stable_diffusion_schedule() -> Discrete:
    """The table of Stable Diffusion 1 and 2: betas linear in their square root from .00085 to .012, 1000 ticks."""
    return Discrete.from_betas(
        (torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).tolist()
    )
