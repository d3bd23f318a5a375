"""Figures of pictures alone: no model, no reference. Images are ``[N, 3, h, w]`` in [0, 1]; answers are Python numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def saturation(images: Float[Tensor, "n 3 h w"]) -> float:
    """Mean saturation S of hue, saturation, value (Smith 1978): (max - min) / max of the channels, 0 for black.

    Range [0, 1], no unit. SDS at high guidance is known by values near 1.
    """
    high, low = images.amax(1), images.amin(1)
    return torch.where(high > 0, (high - low) / high.clamp_min(1e-12), 0.0).mean().item()


def clipped(images: Float[Tensor, "n 3 h w"]) -> float:
    """Share of channel values at the end of the range once stored in 8 bits (0 or 255).

    Range [0, 1], no unit.
    """
    stored = (images * 255).round()
    return ((stored <= 0) | (stored >= 255)).float().mean().item()


def variation(images: Float[Tensor, "n 3 h w"]) -> float:
    """Mean absolute difference of neighbours, across and down: anisotropic total variation (Rudin, Osher & Fatemi 1992) per pair.

    Range [0, 1], in units of the image range per pixel; compare only pictures of one size.
    """
    across, down = images.diff(dim=-1).abs(), images.diff(dim=-2).abs()
    return ((across.sum() + down.sum()) / max(across.numel() + down.numel(), 1)).item()


def diversity(images: Float[Tensor, "n 3 h w"]) -> float | None:
    """Mean over pairs of particles of their root mean squared difference; give it the particles of one prompt.

    Range [0, 1], in units of the image range; 0 means that all particles are the same. None with fewer than two.
    """
    if len(images) < 2:
        return None
    flat = images.flatten(1).double()
    # pdist gives |a - b|, without a [N, N, D] tensor
    return (torch.pdist(flat) / flat.shape[1] ** 0.5).mean().item()


def difference(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "m 3 h w"]) -> float:
    """Mean root mean squared difference over pairs of one picture of ``a`` and one of ``b``: ``diversity`` between two sets.

    Range [0, 1], in units of the image range.
    """
    one, other = a.flatten(1).double(), b.flatten(1).double()
    # the shorter formula, by a matrix product, loses half of the digits of near pictures
    far = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
    return (far / one.shape[1] ** 0.5).mean().item()
