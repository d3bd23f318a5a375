"""A cache of rendered pictures on disk, so that every stage and every worker reads the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.world.scene import Scenes, captions, random_scenes, render

FIELDS = ("object", "colour", "pattern", "background", "azimuth", "elevation", "distance", "tint")


def prepare(folder: Path, count: int, seed: int, unseen: bool = False, chunk: int = 1000) -> None:
    """Render ``count`` scenes into ``folder`` (pictures.npy, scenes.npz); does nothing when they are there already."""
    want = {"count": count, "seed": seed, "unseen": unseen}
    stamp = folder / "pictures.json"
    if stamp.exists() and json.loads(stamp.read_text()) == want:
        return
    folder.mkdir(parents=True, exist_ok=True)
    scenes = random_scenes(count, np.random.default_rng(seed), unseen)
    store = np.lib.format.open_memmap(folder / "pictures.npy", "w+", np.uint8, (count, 64, 64, 3))
    for start in range(0, count, chunk):
        store[start : start + chunk] = render(scenes[slice(start, start + chunk)])
    store.flush()
    np.savez(folder / "scenes.npz", **vars(scenes))
    stamp.write_text(json.dumps(want))


def load_scenes(folder: Path) -> Scenes:
    """The scenes of a prepared folder."""
    with np.load(folder / "scenes.npz") as file:
        return Scenes(**{name: file[name] for name in FIELDS})


def load_pictures(folder: Path) -> np.ndarray:
    """The pictures of a prepared folder, a memory map, uint8 ``[N, 64, 64, 3]``."""
    return np.load(folder / "pictures.npy", mmap_mode="r")


def load_captions(folder: Path, seed: int, variants: int = 4) -> list[list[str]]:
    """``variants`` lists of N captions, each with its own dropping of attributes."""
    scenes = load_scenes(folder)
    return [captions(scenes, np.random.default_rng((seed, k))) for k in range(variants)]


def as_images(pictures: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """uint8 pictures as float32 images in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255
