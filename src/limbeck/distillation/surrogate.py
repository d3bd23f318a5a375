"""A scalar loss with a given gradient."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.tensors import to_device


def surrogate(
    x0: Float[Tensor, "b ..."], direction: Float[Tensor, "b ..."], particle: Int[Tensor, "b"]
) -> Float[Tensor, ""]:
    """Loss whose gradient in x0 is ``direction``, averaged over the views of each particle.

    The average is taken per particle, so that the gradient of a particle does not depend on how
    many others there are. The value of the loss has no meaning and must not be logged.

    Args:
        x0: rendered x0 of each row, with its graph.
        direction: gradient of each row in x0 space.
        particle: particle index of each row, on the CPU, so that no device sync is needed.
    """
    views = to_device(particle.bincount()[particle], x0.device)
    return ((direction.detach() * x0).flatten(1).sum(1) / views.to(x0)).sum()
