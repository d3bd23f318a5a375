"""Base class of the features by which particles are compared."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior


@dataclass(frozen=True)
class Features(abc.ABC):
    """Differentiable features of x0."""

    @abc.abstractmethod
    def __call__(self, prior: Prior, x0: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """One feature vector per row.

        Args:
            prior: prior, whose decoder may be used.
            x0: x0 of each row.
        """
