"""LPIPS, by the package of its authors where a user has installed it."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_MISSING = (
    "LPIPS needs the package lpips, which is no extra of ours because its torchvision replaces "
    "torch: install both in versions that fit yours, as in pip install lpips torchvision==VERSION"
)


def load_lpips(device: str = "cpu") -> Any:
    """The network of LPIPS on SqueezeNet, as in PIE-Bench.

    Args:
        device: its device.

    Raises:
        ValueError: if the package is not installed, or cannot be imported.
    """
    try:
        lpips = importlib.import_module("lpips")
    except ImportError as error:
        raise ValueError(f"{_MISSING} ({error})") from error
    return lpips.LPIPS(net="squeeze", verbose=False).to(device).eval().requires_grad_(False)


@torch.no_grad()
def lpips_distance(
    images: Float[Tensor, "n 3 h w"],
    others: Float[Tensor, "n 3 h w"],
    network: Any,
    keep: Bool[Tensor, "n 1 h w"] | None = None,
) -> Float[Tensor, "n"]:
    """Learned perceptual distance of two images.

    Range 0 to about 1; below .05 a difference is hard to see. What is not kept is black in both
    images, as in PIE-Bench, and counts as equal: compare equal masks only. Sample size: a value per
    pair of images; a mean of any number.

    Args:
        images: images in [0, 1].
        others: images of the same size.
        network: output of ``load_lpips``.
        keep: pixels that count. None: all.

    References:
        Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric",
        2018, arXiv 1801.03924.
    """
    weights = 1.0 if keep is None else keep.float()
    device = next(network.parameters()).device
    pair = [(weights * own.float()).to(device) for own in (images, others)]
    return network(*pair, normalize=True).flatten().float().cpu()
