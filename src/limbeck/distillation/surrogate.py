"""The scalar whose gradient is a given direction."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def surrogate(
    x0: Float[Tensor, "b ..."], direction: Float[Tensor, "b ..."], view: Int[Tensor, "b"]
) -> Float[Tensor, ""]:
    """A scalar whose gradient in x0 is ``direction``, averaged over the views of each particle.

    Only rows of the same particle share the average, so what a particle receives never depends on how many others there are.
    The value itself means nothing and is never logged.
    """
    views = (view[:, None] == view[None]).sum(1)
    return ((direction.detach() * x0).flatten(1).sum(1) / views.to(x0)).sum()
