"""Image files: crops and unreadable files."""

from __future__ import annotations

import pytest
from PIL import Image
from small_2d import image_to_tensor, write_test_image
from tiny_pipeline import max_difference

from limbeck.graphics.image_files import read_image
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.pixels import Pixels


def test_images_are_cropped_and_not_distorted(tmp_path):
    path = write_test_image(tmp_path / "wide.png", 24, 48, 0.8)
    with Image.open(path) as image:
        center = image_to_tensor(image.crop((12, 0, 36, 24)))
    assert max_difference(read_image(path, (24, 24)), center) < 0.01


def test_unreadable_files_are_refused(prior, tmp_path):
    with pytest.raises(ValueError, match=r"no image file .*none\.png"):
        Pixels(images=(tmp_path / "none.png",)).build(prior, 1, 0)
    path = tmp_path / "text.png"
    path.write_text("not an image")
    with pytest.raises(ValueError, match="is not an image that can be read"):
        Gaussians2D(images=(path,)).build(prior, 1, 0)
