"""Training images cached on disk, so that every training stage and worker reads the same ones."""

from __future__ import annotations

import json
import math
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.system.files import write_text
from limbeck.world.scene import Scenes, random_captions, random_scenes, render_scenes


def prepare_renders(
    folder: Path,
    count: int,
    seed: int,
    unseen: bool = False,
    chunk: int = 1000,
    seconds: float = math.inf,
) -> None:
    """Render random scenes into a folder, unless they are there already.

    Args:
        folder: gets images.npy, scenes.npz and renders.json.
        count: number of scenes.
        seed: seed of the scenes.
        unseen: True: only combinations that are held out from training; False: only the others.
        chunk: scenes rendered at a time.
        seconds: time after which no further chunk is begun, so that there are fewer scenes.
    """
    settings = {"count": count, "seed": seed, "unseen": unseen}
    done = folder / "renders.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == settings:
        return
    folder.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)  # from here on the images are not those of the old settings
    scenes = random_scenes(count, np.random.default_rng(seed), unseen)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, 64, 64, 3))
    deadline = time.monotonic() + seconds
    num_rendered = 0
    while num_rendered < count and (num_rendered == 0 or time.monotonic() < deadline):
        rows = slice(num_rendered, num_rendered + chunk)
        images[rows] = render_scenes(scenes[rows])
        num_rendered = min(num_rendered + chunk, count)
    images.flush()
    if num_rendered < count:
        np.save(folder / "images.npy", np.array(images[:num_rendered]))
    np.savez(folder / "scenes.npz", **vars(scenes[slice(0, num_rendered)]))
    write_text(done, json.dumps(settings))


def load_scenes(folder: Path) -> Scenes:
    """Load the scenes of a prepared folder."""
    with np.load(folder / "scenes.npz") as file:
        return Scenes(**{field.name: file[field.name] for field in fields(Scenes)})


def load_images(folder: Path) -> np.ndarray:
    """Map the images of a prepared folder into memory, uint8 ``[N, 64, 64, 3]``."""
    return np.load(folder / "images.npy", mmap_mode="r")


def load_captions(folder: Path, seed: int, variants: int = 4) -> list[list[str]]:
    """Return captions of the N images of a prepared folder.

    Args:
        folder: filled by ``prepare_renders`` or ``prepare_images``.
        seed: seed of the captions of renders.
        variants: number of captions per image: for renders each with its own attributes dropped,
            for other images those of the user in turn.

    Returns:
        ``variants`` lists of N captions.
    """
    own = folder / "captions.json"
    if own.exists():
        rows = [captions for _, *captions in json.loads(own.read_text(encoding="utf-8"))]
        return [[row[k % len(row)] for row in rows] for k in range(variants)]
    scenes = load_scenes(folder)
    return [random_captions(scenes, np.random.default_rng((seed, k))) for k in range(variants)]


def images_to_tensor(images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Convert uint8 images to float32 in [0, 1], channels first."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
