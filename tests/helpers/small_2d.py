"""Small 2D representations, and images to initialize them from."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.coordinate_network import Fourier, Siren
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import Strokes

WITHOUT_LATENTS = {
    "pixels": Pixels(num_levels=3),
    "siren": Siren(width=16, depth=2),
    "siren-latent": Siren(space="latent", width=16, depth=2),
    "fourier": Fourier(width=16, num_frequencies=8),
    "fourier-latent": Fourier(space="latent", width=16, num_frequencies=8),
    "gaussians-2d": Gaussians2D(num_gaussians=40),
    "strokes": Strokes(num_strokes=12),
}
ALL = {"latents": Latents(), **WITHOUT_LATENTS}


def all_particles(count: int) -> RenderRequest:
    return RenderRequest(torch.arange(count))


def write_test_image(path: Path, height: int, width: int, blue: float) -> Path:
    """Write a smooth image with a bright square."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    rgb = torch.stack([0.2 + 0.6 * x, 0.8 - 0.5 * y, torch.full_like(x, blue)])
    rgb[:, height // 4 : height // 2, width // 4 : width // 2] = 0.9
    Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return path


def write_noise_image(path: Path, size: int) -> Path:
    """Write a square image of uniform noise."""
    pixels = torch.rand(size, size, 3, generator=torch.Generator().manual_seed(0)) * 255
    Image.fromarray(pixels.byte().numpy()).save(path)
    return path


def image_to_tensor(image: Image.Image) -> Tensor:
    """An image in [0, 1], [3, h, w]."""
    values = torch.tensor(list(image.convert("RGB").getdata()))
    return values.reshape(image.height, image.width, 3).permute(2, 0, 1) / 255
