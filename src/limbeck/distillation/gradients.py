"""Gradients of losses that a method computes itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def summed_gradient(
    losses: Sequence[Float[Tensor, ""]], x: Float[Tensor, "b ..."], cause: str
) -> Float[Tensor, "b ..."]:
    """Return the gradient of the sum of some losses; those that do not depend on x are left out.

    Args:
        losses: losses.
        x: what they depend on.
        cause: message of the error if none does.

    Raises:
        ValueError: if no loss depends on x.
    """
    used = [loss for loss in losses if loss.requires_grad]
    if not used:
        raise ValueError(cause)
    return torch.autograd.grad(used, x, [torch.ones_like(loss) for loss in used])[0]
