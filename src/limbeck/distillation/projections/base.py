"""What LMC needs of a projection: b(x, t), near the mean over eps of the unconditional picture that the prior sees in x_t."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless


@dataclass(frozen=True)
class Projection(abc.ABC):
    """The options of a projection."""

    @abc.abstractmethod
    def build(self, prior: Prior, start: SetupContext) -> Projector:
        """A projector for this prior; ValueError where it cannot have one."""


class Projector(Stateless, abc.ABC):
    """A projection at work. It is taught by nothing and remembers nothing, unless a subclass says so."""

    @abc.abstractmethod
    def __call__(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        """b(x, t) of the sample's x and t; it may draw, but never knows the sample's eps."""

    def fit(self, sample: StepInputs, seen: Float[Tensor, "b ..."]) -> dict[str, Tensor]:
        """Learn from ``seen``, the picture that the prior saw in the sample's x_t. Returns figures to record."""
        return {}
