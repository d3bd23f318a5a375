"""A grid of images has each image at its place."""

import numpy as np
import torch

from limbeck.leaderboard.report.image_grid import draw_grid


def test_each_image_is_at_its_place():
    shades = torch.tensor([[0.2, 0.4, 0.6], [0.3, 0.5, 0.7]])
    images = shades[:, :, None, None, None].expand(2, 3, 3, 8, 8)
    drawn = draw_grid(images, ["first", "second"], ["a", "b", "a caption of more than one line"])
    pixels = np.asarray(drawn.convert("RGB"))
    height, width = pixels.shape[:2]
    for y in range(2):
        for x in range(3):
            center = pixels[height - 152 + 76 * y + 36, width - 228 + 76 * x + 36]
            assert np.abs(center / 255 - shades[y, x].item()).max() < 0.01
