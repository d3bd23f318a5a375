"""A tiny pipeline and an image file, for tests that walk all methods."""

from __future__ import annotations

import pytest
from small_2d import write_noise_image

from limbeck.priors.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def image_path(tmp_path_factory):
    return write_noise_image(tmp_path_factory.mktemp("image") / "noise.png", 16)


@pytest.fixture(scope="module")
def tiny(v_folder):
    return StableDiffusion(str(v_folder))
