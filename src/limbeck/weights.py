"""Weights w(t) on the direction eps_hat - eps. Frozen dataclasses: their fields are their options."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.schedule import NoiseSchedule


@dataclass(frozen=True)
class Weight(abc.ABC):
    """A weight per row, from the schedule and the time."""

    @abc.abstractmethod
    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]: ...


@dataclass(frozen=True)
class DreamFusion(Weight):
    """sigma^2 = 1 - abar (Poole et al. 2022). Not 1 - sqrt(abar), which one framework calls by the same name."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.sigma(t) ** 2


@dataclass(frozen=True)
class Uniform(Weight):
    """1 at every time (DDS, CSD)."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.sigma(t) * 0 + 1


@dataclass(frozen=True)
class Lambda(Weight):
    """(sigma / alpha)^power: power 1 turns eps_hat - eps into x0 - x0_hat (ISM, SDI, HiFA)."""

    power: float = 1.0

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return (schedule.sigma(t) / schedule.alpha(t)) ** self.power


@dataclass(frozen=True)
class Fantasia3D(Weight):
    """sqrt(abar) (1 - abar) (Chen et al. 2023): less at large t."""

    def __call__(self, schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return schedule.alpha(t) * schedule.sigma(t) ** 2
