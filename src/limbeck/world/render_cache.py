"""Renders cached on disk, so that every training stage and worker reads the same images."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.world.scene import Scenes, random_captions, random_scenes, render_scenes


def prepare_renders(
    folder: Path, count: int, seed: int, unseen: bool = False, chunk: int = 1000
) -> None:
    """Render random scenes into a folder, unless they are there already.

    Args:
        folder: gets images.npy, scenes.npz and renders.json.
        count: number of scenes.
        seed: seed of the scenes.
        unseen: True: only combinations that are held out from training; False: only the others.
        chunk: scenes rendered at a time.
    """
    settings = {"count": count, "seed": seed, "unseen": unseen}
    done = folder / "renders.json"
    if done.exists() and json.loads(done.read_text()) == settings:
        return
    folder.mkdir(parents=True, exist_ok=True)
    scenes = random_scenes(count, np.random.default_rng(seed), unseen)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, 64, 64, 3))
    for first in range(0, count, chunk):
        images[first : first + chunk] = render_scenes(scenes[slice(first, first + chunk)])
    images.flush()
    np.savez(folder / "scenes.npz", **vars(scenes))
    done.write_text(json.dumps(settings))


def load_scenes(folder: Path) -> Scenes:
    """Load the scenes of a prepared folder."""
    with np.load(folder / "scenes.npz") as file:
        return Scenes(**{field.name: file[field.name] for field in fields(Scenes)})


def load_images(folder: Path) -> np.ndarray:
    """Map the images of a prepared folder into memory, uint8 ``[N, 64, 64, 3]``."""
    return np.load(folder / "images.npy", mmap_mode="r")


def load_captions(folder: Path, seed: int, variants: int = 4) -> list[list[str]]:
    """Return random captions of the scenes of a prepared folder.

    Args:
        folder: where ``prepare_renders`` has rendered N scenes.
        seed: seed of the captions.
        variants: number of captions per scene, each with its own attributes dropped.

    Returns:
        ``variants`` lists of N captions.
    """
    scenes = load_scenes(folder)
    return [random_captions(scenes, np.random.default_rng((seed, k))) for k in range(variants)]


def images_to_tensor(images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Convert uint8 images to float32 in [0, 1], channels first."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
