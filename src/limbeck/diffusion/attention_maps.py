"""Attention probabilities of a network call as maps over the image."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class AttentionMaps:
    """Attention probabilities of the rows of one network call, means over heads and layers.

    Attributes:
        self_attention: how much a position, the first index, attends to each other one.
        self_size: height and width of the layers of ``self_attention``; its positions are in
            reading order.
        cross_attention: how much each position attends to a token of the text.
    """

    self_attention: Float[Tensor, "r n n"]
    self_size: tuple[int, int]
    cross_attention: Float[Tensor, "r l h w"]

    def __getitem__(self, rows: slice) -> AttentionMaps:
        """The maps of some of the rows."""
        return AttentionMaps(self.self_attention[rows], self.self_size, self.cross_attention[rows])
