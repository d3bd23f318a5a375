"""Compositing of projected Gaussians."""

import torch

from limbeck.graphics.rendering.gaussian_compositing import ProjectedGaussians, composite_torch


def test_padded_rows_of_a_tile_stay_finite_in_large_images():
    """A padded row repeats a Gaussian that may lie a whole image away from its tile."""
    size, n = 2048, 1000
    rng = torch.Generator().manual_seed(0)
    means = (torch.rand(1, n, 2, generator=rng) * size).requires_grad_()
    std = torch.full((1, n), 0.6)
    conics = torch.stack([std**-2, torch.zeros(1, n), std**-2], -1)
    gaussians = ProjectedGaussians(
        means,
        conics,
        torch.stack([std, std], -1),
        torch.rand(1, n, 3, generator=rng),
        torch.full((1, n), 0.9),
    )
    color, transmittance = composite_torch(gaussians, size, size)
    (color.sum() + transmittance.sum()).backward()
    assert color.isfinite().all() and means.grad.isfinite().all()
    assert transmittance.min() >= 0 and transmittance.max() <= 1
