"""Row-wise broadcasting and transfers between host and device."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def to_device(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Move a host tensor to ``device`` without blocking the host on CUDA.

    Args:
        tensor: tensor in host memory, which may be freed as soon as this returns.
        device: target device.
    """
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def to_unit_range(image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Clamp to [0, 1]; an infinite value becomes NaN, so that an overflow is not taken for white.

    Args:
        image: images, of which values outside of [0, 1] are clipped.
    """
    return image.clamp(0, 1) + 0 * image  # 0 inf is NaN


def expand(a: Float[Tensor, "b"], like: Float[Tensor, "b ..."]) -> Tensor:
    """Append axes of length one to ``a`` so that it broadcasts over the rows of ``like``.

    Args:
        a: one value per row ``[B]``.
        like: tensor ``[B, ...]`` whose rank, dtype and device the result takes.

    Returns:
        ``a`` as ``[B, 1, ...]``.
    """
    return to_device(a, like.device).to(like).reshape(-1, *[1] * (like.ndim - 1))
