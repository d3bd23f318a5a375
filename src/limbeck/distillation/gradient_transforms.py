"""Transforms of the weighted gradient: none, clipping, normalization, and of images' gradients."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.config.ranges import check_positive
from limbeck.diffusion.tensors import expand


@dataclass(frozen=True)
class GradientTransform(abc.ABC):
    """Transform of the gradient in x0 space, w(t) times the direction of the method."""

    @abc.abstractmethod
    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        """The gradient to descend.

        Args:
            gradient: weighted gradient of each row.
            step: current step, from 0.
            steps: number of steps of the run.
        """

    def of_image(self, gradient: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The gradient of each rendered image, behind the encoder; by default unchanged.

        Args:
            gradient: gradient of each image, as if it were the only view of its particle.
        """
        return gradient

    @property
    def changes_images(self) -> bool:
        """Whether it changes the gradients of rendered images."""
        return type(self).of_image is not GradientTransform.of_image


@dataclass(frozen=True)
class NoTransform(GradientTransform):
    """The gradient unchanged."""

    name = "none"

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        return gradient


@dataclass(frozen=True)
class Clip(GradientTransform):
    """Clamp every element to [-c, c], c changing linearly during training.

    Attributes:
        start_value: c at the first step, above 0, in the units of the gradient; 2 for Stable
            Diffusion and 0.5 for DeepFloyd IF in the authors' code.
        end_value: c from ``end_at`` on, above 0; 8 for Stable Diffusion and 2 for DeepFloyd IF in
            the authors' code.
        end_at: fraction of training at which ``end_value`` is reached. 0: from the start.

    References:
        Hong et al. 2023, Debiasing Scores and Prompts of 2D Diffusion for View-consistent
        Text-to-3D Generation, arXiv 2303.15413.
    """

    start_value: float = 2.0
    end_value: float = 8.0
    end_at: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "start_value", "end_value")
        if not 0 <= self.end_at <= 1:
            raise ValueError(f"end_at must be a fraction in [0, 1], not {self.end_at}")

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        fraction = min(1.0, step / (self.end_at * steps)) if self.end_at > 0 else 1.0
        c = self.start_value + fraction * (self.end_value - self.start_value)
        # an infinite element must not become c, or the run would not stop at it; 0 inf is NaN
        return gradient.clamp(-c, c) + 0 * gradient


def _largest_size(sizes: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The largest absolute value, so that squares of quotients neither over- nor underflow.

    1 instead of 0, where nothing is to be divided; the quotients of an infinite value are NaN.
    """
    return sizes.where(sizes != 0, 1.0)


@dataclass(frozen=True)
class Normalize(GradientTransform):
    """Scale each row to a fixed root mean square; rows of zeros stay zero.

    Every row is scaled by itself. ``normalize-batch`` scales all rows by one factor.

    Attributes:
        rms: root mean square of each row, above 0.
    """

    rms: float = 1.0

    def __post_init__(self) -> None:
        if self.rms <= 0:
            raise ValueError(f"rms must be positive, not {self.rms}")

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        scaled = gradient / expand(_largest_size(gradient.flatten(1).abs().amax(1)), gradient)
        rms = scaled.flatten(1).square().mean(1).sqrt()
        return scaled * expand((self.rms / rms).where(rms != 0, 0.0), gradient)


@dataclass(frozen=True)
class NormalizeBatch(GradientTransform):
    """Scale the gradient of all rows together to a fixed L2 norm, as CSD's code (grad_normalize).

    The proportion between rows stays, and each row gets less the more there are. A gradient of
    zeros stays zero.

    Attributes:
        norm: L2 norm over all elements of all rows, above 0.

    References:
        Yu et al. 2023, Text-to-3D with Classifier Score Distillation, arXiv 2310.19415 (its code).
    """

    norm: float = 1.0

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"norm must be positive, not {self.norm}")

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        scaled = gradient / _largest_size(gradient.abs().amax())
        norm = scaled.norm()
        return scaled * (self.norm / norm).where(norm != 0, 0.0)


@dataclass(frozen=True)
class PixelClip(GradientTransform):
    """Pixel-wise gradient clipping (PGC): shorten the gradient of each pixel of rendered images.

    Behind the autoencoder of a latent model a few pixels get gradients far above the others. Each
    pixel keeps its direction: g <- g min(1, c / max_channel |g|).

    Attributes:
        threshold: c, the largest absolute value of a channel, above 0.

    References:
        Pan et al. 2023, Enhancing High-Resolution 3D Generation through Pixel-wise Gradient
        Clipping, arXiv 2310.12474.
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "threshold")

    def __call__(
        self, gradient: Float[Tensor, "b ..."], step: int, steps: int
    ) -> Float[Tensor, "b ..."]:
        return gradient

    def of_image(self, gradient: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        largest = gradient.abs().amax(1, keepdim=True)
        # an infinite pixel becomes NaN, at which the run stops, and not c
        return gradient * (self.threshold / largest).clamp(max=1).where(largest > 0, 1.0)
