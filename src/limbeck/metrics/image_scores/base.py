"""A score of single images for their prompts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.metrics.bounds import Bounds
from limbeck.metrics.intervals import UNBOUNDED, Interval
from limbeck.metrics.square_images import fit_squares


class ImageScore(ABC):
    """A score of single images for their prompts; ``limbeck eval --score FILE.py`` takes your own.

    Attributes:
        size: height and width of the square images that ``score`` takes; None: images as they are,
            those of one call equally large.
        pads: whether images are padded to a square with black, not cropped.
        bounds: smallest and largest possible score, which intervals stay within; (0, 1) for a
            share.
    """

    pads: ClassVar[bool] = False
    bounds: ClassVar[Interval] = UNBOUNDED
    size: int | None = None

    @property
    def metric(self) -> str:
        """Name in results: that of the class in snake case, or its class attribute ``name``."""
        return component_name(type(self)).replace("-", "_")

    @abstractmethod
    def score(self, images: Float[Tensor, "n 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "n"]:
        """Return the score of each image for its own prompt.

        Args:
            images: images in [0, 1], on the CPU.
            prompts: the prompt of each.
        """


def bounds_of(scores: Sequence[ImageScore]) -> Bounds:
    """Bounds of the scores that have any, by name."""
    return {score.metric: score.bounds for score in scores if score.bounds != UNBOUNDED}


def check_score_bounds(score: ImageScore) -> None:
    """Check that a score has no bounds, or two numbers.

    Raises:
        ValueError: if it has others.
    """
    match score.bounds:
        case (int() | float() as low, int() | float() as high) if low < high:
            if (math.isfinite(low) and math.isfinite(high)) or score.bounds == UNBOUNDED:
                return
    raise ValueError(
        f"bounds of the score {score.metric} must be two finite numbers, the smaller one first, as "
        f"(0, 1) of a share, not {score.bounds}"
    )


@torch.no_grad()
def score_each(
    score: ImageScore, images: Sequence[Float[Tensor, "3 h w"]], prompts: Sequence[str]
) -> list[float]:
    """The score of each image, which may differ in size.

    Args:
        score: the score.
        images: images in [0, 1].
        prompts: the prompt of each.

    Raises:
        ValueError: if the score returns anything but one finite number for each image.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for row, image in enumerate(images):
        by_shape.setdefault(torch.Size() if score.size else image.shape, []).append(row)
    values = [0.0] * len(images)
    for rows in by_shape.values():
        own = [images[row] for row in rows]
        batch = fit_squares(own, score.size, score.pads) if score.size else torch.stack(own)
        found = score.score(batch, [prompts[row] for row in rows])
        _check_values(score, found, len(rows))
        for row, value in zip(rows, found.tolist(), strict=True):
            values[row] = float(value)
    return values


def _check_values(score: ImageScore, found: Any, count: int) -> None:
    if not isinstance(found, Tensor):
        shape = type(found).__name__
    elif found.shape != (count,):
        shape = f"a tensor of shape {list(found.shape)}"
    elif not bool(found.isfinite().all()):
        shape = "a value that is not finite"
    elif bool((found < score.bounds[0]).any() | (found > score.bounds[1]).any()):
        shape = f"a value outside its bounds {score.bounds}"
    else:
        return
    raise ValueError(
        f"the score {score.metric} returned {shape} for {count} images: it must return a tensor of "
        f"shape [{count}] of finite numbers, within its bounds if it has any"
    )
