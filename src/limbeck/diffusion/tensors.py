"""Row-wise broadcasting and transfers between host and device."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def to_device(tensor: Tensor, device: str | torch.device) -> Tensor:
    """A tensor of the host on ``device``. On CUDA the host does not wait for the device's work; its memory may be freed at once."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def expand(a: Float[Tensor, "b"], like: Float[Tensor, "b ..."]) -> Tensor:
    """``a`` with trailing axes of length one, so that it multiplies ``like`` row by row, in its dtype and on its device."""
    return to_device(a, like.device).to(like).reshape(-1, *[1] * (like.ndim - 1))
