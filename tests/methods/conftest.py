"""A tiny pipeline and an image file, for tests that walk all methods."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from limbeck.priors.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def image_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "noise.png"
    pixels = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255
    Image.fromarray(pixels.byte().numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def tiny(v_folder):
    return StableDiffusion(str(v_folder))
