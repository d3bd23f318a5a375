"""Weights w(t) of the direction eps_hat - eps.

A normalization by the norm of the direction is not a weight but a gradient transform.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.lazy import defined_classes
from limbeck.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Weight(abc.ABC):
    """Weight of each row as a function of the noise schedule and the time."""

    @abc.abstractmethod
    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """w(t) of each row.

        Args:
            schedule: noise schedule of the prior.
            t: time of each row.
        """


@dataclass(frozen=True)
class DreamFusionWeight(Weight):
    """sigma^2, which is 1 - abar (Poole et al. 2022).

    threestudio's unified guidance calls 1 - sqrt(abar) by this name, see ``unified-guidance``.
    """

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
    """lambda^power with lambda = sigma / alpha (ISM, SDI, HiFA, CFD).

    Power 1 turns eps_hat - eps into x0 - x0_hat.

    Attributes:
        power: power of lambda; the family of RED-diff also has 1/2 and 2, where it calls lambda
            the SNR.
    """

    power: float = 1.0

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (schedule.sigma(t) / schedule.alpha(t)) ** self.power


@dataclass(frozen=True)
class Fantasia3DWeight(Weight):
    """sqrt(abar) (1 - abar), smaller at large t (Chen et al. 2023)."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.alpha(t) * schedule.sigma(t) ** 2


@dataclass(frozen=True)
class LogLambdaWeight(Weight):
    """log(1 + sigma / alpha): about lambda at small t, slower growth at large t (as RED-diff).

    References:
        Mardani et al. 2023, arXiv 2305.04391.
    """

    name = "log-lambda"

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (schedule.sigma(t) / schedule.alpha(t)).log1p()


@dataclass(frozen=True)
class AlphaSigmaWeight(Weight):
    """alpha^a sigma^s (prolific_dreamer2d).

    sqrt(abar) is (a, s) = (1, 0), abar (2, 0), 1 - abar (0, 2) and sqrt(abar (1 - abar)) (1, 1).

    Attributes:
        alpha_power: power a of alpha.
        sigma_power: power s of sigma.
    """

    alpha_power: float = 1.0
    sigma_power: float = 0.0

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.alpha(t) ** self.alpha_power * schedule.sigma(t) ** self.sigma_power


@dataclass(frozen=True)
class BAOABWeight(Weight):
    """2 sigma^2 / abar = 2 lambda^2 (prolific_dreamer2d)."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 2 * (schedule.sigma(t) / schedule.alpha(t)) ** 2


@dataclass(frozen=True)
class UnifiedGuidanceWeight(Weight):
    """1 - sqrt(abar), which threestudio's unified guidance calls dreamfusion."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 1 - schedule.alpha(t)


@dataclass(frozen=True)
class MinSNRWeight(Weight):
    """Min-SNR weight of one prediction type, with SNR = abar / sigma^2.

    min(SNR, gamma) / SNR for eps, min(SNR, gamma) for x0, min(SNR, gamma) / (SNR + 1) for v. The
    paper weights the squared error of the prediction type, and the three are one loss there. As
    weights of eps_hat - eps they differ.

    Attributes:
        gamma: value at which the SNR is clipped, above 0.
        prediction_type: formula to use: eps, x0 or v.

    References:
        Hang et al. 2023, arXiv 2303.09556.
    """

    gamma: float = 5.0
    prediction_type: Literal["eps", "x0", "v"] = "eps"

    def __post_init__(self) -> None:
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma must be positive and finite, not {self.gamma}")

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        signal, noise = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        # written so that neither end of the schedule is 0 / 0
        if self.prediction_type == "eps":
            return (self.gamma * noise / signal).clamp(max=1)
        if self.prediction_type == "x0":
            return (signal / noise).clamp(max=self.gamma)
        return torch.minimum(signal, self.gamma * noise) / (signal + noise)


@dataclass(frozen=True)
class HiFAWeight(Weight):
    """HiFA's four weights of x0 - x0_hat, as weights of eps_hat - eps (factor lambda).

    With c = scale: c lambda (constant), c (noisematch), c sigma^2 (sdslike) or c alpha
    (strongerlower).

    Attributes:
        strategy: constant, noisematch, sdslike or strongerlower, the names of HiFA's code.
        scale: constant factor c, 0.05 in HiFA's code.

    References:
        Zhu & Zhuang 2023, arXiv 2305.18766.
    """

    name = "hifa"

    strategy: Literal["constant", "noisematch", "sdslike", "strongerlower"] = "constant"
    scale: float = 0.05

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if self.strategy == "constant":
            return self.scale * sigma / alpha
        if self.strategy == "sdslike":
            return self.scale * sigma**2
        if self.strategy == "strongerlower":
            return self.scale * alpha
        return self.scale * (alpha * 0 + 1)


def plateau(
    t: Float[Tensor, "b"], m1: float, m2: float, s1: float, s2: float
) -> Float[Tensor, "b"]:
    """DreamTime's W_p(t), float64.

    It is 1 on [m2, m1], exp(-(t - m1)^2 / 2 s1^2) above and exp(-(t - m2)^2 / 2 s2^2) below.

    Args:
        t: times.
        m1: upper end of the plateau.
        m2: lower end of the plateau.
        s1: standard deviation above it.
        s2: standard deviation below it.
    """
    t = t.double()
    return torch.exp(
        -((t - m1).clamp(min=0) ** 2) / (2 * s1**2) - (m2 - t).clamp(min=0) ** 2 / (2 * s2**2)
    )


@dataclass(frozen=True)
class DreamTimeWeight(Weight):
    """DreamTime's W_p(t) as a weight: 1 on [m2, m1], Gaussian above and below (prolific_dreamer2d).

    Attributes:
        m1: upper end of the plateau, in [m2, 1].
        m2: lower end of the plateau, in [0, m1].
        s1: standard deviation above the plateau, above 0.
        s2: standard deviation below the plateau, above 0.

    References:
        Huang et al. 2023, arXiv 2306.12422.
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
            raise ValueError(f"s1 and s2 must be positive, not {self.s1} and {self.s2}")

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return plateau(t, self.m1, self.m2, self.s1, self.s2)


def __dir__() -> list[str]:
    return defined_classes(__name__)
