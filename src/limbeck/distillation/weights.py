"""Weights w(t) on the direction eps_hat - eps. Frozen dataclasses: their fields are their options.

What divides by the norm of the direction is no weight: it is a matter of the method.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Weight(abc.ABC):
    """A weight per row, from the schedule and the time."""

    @abc.abstractmethod
    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]: ...


@dataclass(frozen=True)
class DreamFusionWeight(Weight):
    """sigma^2 = 1 - abar (Poole et al. 2022). Not 1 - sqrt(abar), which one framework calls by the same name."""

    name = "dreamfusion"

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.sigma(t) ** 2


@dataclass(frozen=True)
class UniformWeight(Weight):
    """1 at every time (DDS, CSD)."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.sigma(t) * 0 + 1


@dataclass(frozen=True)
class LambdaWeight(Weight):
    """(sigma / alpha)^power: power 1 turns eps_hat - eps into x0 - x0_hat (ISM, SDI, HiFA, CFD).

    power: also 1/2 and 2 in RED-diff's family, where this ratio goes by the name of SNR.
    """

    power: float = 1.0

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (schedule.sigma(t) / schedule.alpha(t)) ** self.power


@dataclass(frozen=True)
class Fantasia3DWeight(Weight):
    """sqrt(abar) (1 - abar) (Chen et al. 2023): less at large t."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.alpha(t) * schedule.sigma(t) ** 2


@dataclass(frozen=True)
class LogLambdaWeight(Weight):
    """log(1 + sigma / alpha): lambda near the data, slower at noise (RED-diff's family, Mardani et al. 2023)."""

    name = "log-lambda"

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (schedule.sigma(t) / schedule.alpha(t)).log1p()


@dataclass(frozen=True)
class AlphaSigmaWeight(Weight):
    """alpha^a sigma^s: sqrt(abar) is (1, 0), abar (2, 0), 1 - abar (0, 2), sqrt(abar (1 - abar)) (1, 1) (prolific_dreamer2d).

    a: power of alpha. s: power of sigma.
    """

    a: float = 1.0
    s: float = 0.0

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.alpha(t) ** self.a * schedule.sigma(t) ** self.s


@dataclass(frozen=True)
class BAOABWeight(Weight):
    """2 sigma^2 / abar = 2 lambda^2 (prolific_dreamer2d)."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 2 * (schedule.sigma(t) / schedule.alpha(t)) ** 2


@dataclass(frozen=True)
class UnifiedGuidanceWeight(Weight):
    """1 - sqrt(abar): what threestudio's unified guidance calls dreamfusion."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 1 - schedule.alpha(t)


@dataclass(frozen=True)
class MinSNRWeight(Weight):
    """min(SNR, gamma) / SNR for eps, min(SNR, gamma) for x0, min(SNR, gamma) / (SNR + 1) for v, where SNR = abar / sigma^2.

    Hang et al. 2023 weight squared errors of one parametrisation each, where the three are one loss. Here they are three weights.

    gamma: where the SNR is cut off. of: eps, x0 or v, which of the three.
    """

    gamma: float = 5.0
    of: Literal["eps", "x0", "v"] = "eps"

    def __post_init__(self) -> None:
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma must be above 0, not {self.gamma}")

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        signal, noise = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        # written so that neither end of the schedule is 0 / 0
        if self.of == "eps":
            return (self.gamma * noise / signal).clamp(max=1)
        if self.of == "x0":
            return (signal / noise).clamp(max=self.gamma)
        return torch.minimum(signal, self.gamma * noise) / (signal + noise)


@dataclass(frozen=True)
class HiFAWeight(Weight):
    """HiFA's four weights of x0 - x0_hat, brought to eps_hat - eps by lambda = sigma / alpha (Zhu and Zhuang 2023).

    kind: constant (scale lambda), noisematch (scale), sdslike (scale sigma^2) or strongerlower (scale alpha). scale: .05 there.
    """

    name = "hifa"

    kind: Literal["constant", "noisematch", "sdslike", "strongerlower"] = "constant"
    scale: float = 0.05

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if self.kind == "constant":
            return self.scale * sigma / alpha
        if self.kind == "sdslike":
            return self.scale * sigma**2
        return self.scale * (alpha if self.kind == "strongerlower" else alpha * 0 + 1)


def plateau(
    t: Float[Tensor, "b"], m1: float, m2: float, s1: float, s2: float
) -> Float[Tensor, "b"]:
    """DreamTime's W_p: 1 on [m2, m1], exp(-(t - m1)^2 / 2 s1^2) above, exp(-(t - m2)^2 / 2 s2^2) below; float64."""
    t = t.double()
    return torch.exp(
        -((t - m1).clamp(min=0) ** 2) / (2 * s1**2) - (m2 - t).clamp(min=0) ** 2 / (2 * s2**2)
    )


@dataclass(frozen=True)
class DreamTimeWeight(Weight):
    """W_p alone: 1 on [m2, m1], Gaussian above and below (Huang et al. 2023), as prolific_dreamer2d weights with it.

    m1: where the plateau ends, above. m2: where it ends, below. s1: deviation above. s2: deviation below.
    """

    name = "dreamtime"

    m1: float = 0.8
    m2: float = 0.5
    s1: float = 0.3
    s2: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.m2 <= self.m1 <= 1:
            raise ValueError(
                f"the plateau must satisfy 0 <= m2 <= m1 <= 1, not m2 {self.m2}, m1 {self.m1}"
            )
        if not (self.s1 > 0 and self.s2 > 0):
            raise ValueError(f"s1 and s2 must be above 0, not {self.s1} and {self.s2}")

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return plateau(t, self.m1, self.m2, self.s1, self.s2)
