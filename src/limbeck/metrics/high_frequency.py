"""Share of the energy of an image at high spatial frequencies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def high_frequency(images: Float[Tensor, "n 3 h w"]) -> float:
    """Mean share of the spectral energy above half the Nyquist frequency, without the mean.

    Noise and checkered patterns raise it, blur lowers it: compare with true images. Range [0, 1];
    white noise has about .80, a constant image has 0. Compare only images of one size. Sample size:
    any. Our own measure.
    """
    gray = images.double().mean(1)
    energy = torch.fft.fft2(gray - gray.mean((1, 2), keepdim=True)).abs().square()
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in gray.shape[-2:])
    radius = (rows[:, None].square() + columns.square()).sqrt()
    high = (energy * (radius > 0.25)).sum((1, 2))
    return (high / energy.sum((1, 2)).clamp_min(1e-12)).mean().item()
