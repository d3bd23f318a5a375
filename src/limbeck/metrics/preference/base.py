"""A model that scores images by what people prefer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor


class PreferenceModel(ABC):
    """A frozen model of people's preferences.

    Attributes:
        metric: name of its score in results.
        pads: whether images are padded to a square with black, not cropped.
        size: height and width of its images.
    """

    metric: ClassVar[str]
    pads: ClassVar[bool] = False
    size: int

    @abstractmethod
    def score(self, images: Float[Tensor, "n 3 s s"], prompts: Sequence[str]) -> Float[Tensor, "n"]:
        """Return the score of each image for its own prompt, on the CPU.

        Args:
            images: square images in [0, 1].
            prompts: the prompt of each.
        """
