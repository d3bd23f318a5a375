"""A score of your own for images, with intervals and paired differences like any other metric.

limbeck eval runs/RUN runs/OTHER --score examples/own_score.py
limbeck eval runs/SWEEP --score examples/own_score.py
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from limbeck.metrics.image_scores.base import ImageScore


class Contrast(ImageScore):
    """Standard deviation of the gray values of an image."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image.

        Args:
            images: ``[n, 3, h, w]``, values in [0, 1].
            prompts: the prompt of each.
        """
        return images.mean(1).flatten(1).std(1, correction=0)
