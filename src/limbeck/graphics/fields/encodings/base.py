"""What a field knows of points: features, by a grid, planes, a hash or frequencies."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EncodingModule(nn.Module, abc.ABC):
    """Features of points, for one particle. ``width`` is how many there are."""

    width: int

    @abc.abstractmethod
    def forward(self, points: Float[Tensor, "n 3"], progress: float) -> Float[Tensor, "n f"]:
        """Features of points in [-1, 1]; those outside are brought to the border. Only what a schedule needs uses progress."""

    def roughness(self) -> Float[Tensor, ""]:
        """Mean squared difference of neighbours, for a total-variation term; 0 where nothing has neighbours."""
        return torch.zeros(())


@dataclass(frozen=True)
class Encoding(abc.ABC):
    """The options of an encoding.

    rate: of its parameters, in units of the field's rate.
    """

    rate: float = field(default=1.0, kw_only=True)

    @abc.abstractmethod
    def build(self, generator: torch.Generator) -> EncodingModule:
        """Parameters drawn by the generator, on the CPU."""
