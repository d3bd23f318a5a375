"""Differentiable indexing with a deterministic gradient."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def gather_rows(table: Float[Tensor, "m ..."], index: Int[Tensor, "*n"]) -> Float[Tensor, "*n ..."]:
    """Rows of a table, as ``table[index]``.

    The gradient of plain indexing is accumulated in no fixed order on several threads; this one's
    is.
    """
    return table.flatten(1).index_select(0, index.flatten()).reshape(*index.shape, *table.shape[1:])
