"""Folders of the world's true images, as another tool would leave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from limbeck.world.scene import full_captions, random_scenes, render_scenes


def write_world_images(folder: Path, count: int, seed: int = 0, noise: float = 0.0) -> list[str]:
    """Write true images of random captions as img-0.png, img-1.png ... and return the captions.

    Args:
        folder: folder to make.
        count: number of images.
        seed: seed of the scenes.
        noise: standard deviation of noise that is added, of 255.
    """
    scenes, rng = random_scenes(count, np.random.default_rng(seed)), np.random.default_rng(1)
    folder.mkdir()
    for i, image in enumerate(render_scenes(scenes)):
        noisy = (image + noise * rng.normal(size=image.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"img-{i}.png")
    return full_captions(scenes)
