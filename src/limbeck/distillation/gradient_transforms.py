"""What is done to the weighted direction before it reaches a particle: nothing, clipping, normalising."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.tensors import expand


@dataclass(frozen=True)
class GradientTransform(abc.ABC):
    """The gradient in x0 space of each row, w(t) times the direction, as the particle is to receive it."""

    @abc.abstractmethod
    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        """The gradient to descend at ``step`` of ``steps``."""


@dataclass(frozen=True)
class NoTransform(GradientTransform):
    """As it is."""

    name = "none"

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        return gradient


@dataclass(frozen=True)
class Clip(GradientTransform):
    """Every number kept within -c .. c (Hong et al. 2023, Debiasing Scores and Prompts of 2D Diffusion for View-consistent
    Text-to-3D, arXiv 2303.15413); c grows linearly from first to last.

    first: c at the first step, in the units of the gradient; the code has 2 for Stable Diffusion and .5 for IF. last: c from the
    end of the growth on (8; 2). over: share of the run in which c grows.
    """

    first: float = 2.0
    last: float = 8.0
    over: float = 1.0

    def __post_init__(self) -> None:
        if self.first <= 0 or self.last <= 0 or not 0 <= self.over <= 1:
            raise ValueError(
                f"first and last must be positive and over a share of the run in [0, 1]: {self}"
            )

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        grown = min(1.0, step / (self.over * steps)) if self.over > 0 else 1.0
        c = self.first + grown * (self.last - self.first)
        # an infinite number must stop the run, not become c: 0 times it is no number
        return gradient.clamp(-c, c) + 0 * gradient


@dataclass(frozen=True)
class Normalize(GradientTransform):
    """Every row scaled to a root mean square of size; a row of zeros stays.

    size: the root mean square.
    """

    size: float = 1.0

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"size must be positive, not {self.size}")

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        now = gradient.flatten(1).square().mean(1).sqrt()
        return gradient * expand((self.size / now).where(now > 0, 0.0), gradient)
