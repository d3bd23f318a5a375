"""Groups of orthogonal views of random scenes, encoded to latents and cached on disk."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.camera_input import camera_labels
from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.system.files import replacing
from limbeck.world.autoencoder import encode_means
from limbeck.world.scene import Scenes, random_scenes, render_scenes

GROUP_SIZE = 4  #: views of a group, a quarter of the circle apart
_SHARD_SIZE = 1000  #: groups in a file
_SCENES_SEED = 11
_NAMED_SHARE = 0.5  #: of the groups, those that start near the front
_NAMED_WIDTH = math.radians(10)
_ELEVATIONS = (math.radians(-2), math.radians(35))  #: no overhead views
_FOV = 40.0  #: degrees; no input of the network


def random_groups(count: int, rng: np.random.Generator, unseen: bool = False) -> Scenes:
    """Draw scenes that are each seen by four cameras at one elevation and distance.

    Half of the groups start within 10 degrees of the front, so that their views are those that the
    words name; the others start anywhere.

    Args:
        count: number of groups.
        rng: source of all randomness.
        unseen: True: only combinations that are held out from training; False: only the others.

    Returns:
        ``4 * count`` scenes, the views of a group one after the other.
    """
    scenes = random_scenes(count, rng, unseen)
    near = rng.uniform(-_NAMED_WIDTH, _NAMED_WIDTH, count)
    start = np.where(rng.random(count) < _NAMED_SHARE, near, rng.uniform(-np.pi, np.pi, count))
    return around(scenes, start, rng.uniform(*_ELEVATIONS, count))


def around(scenes: Scenes, start: np.ndarray, elevation: np.ndarray) -> Scenes:
    """Return four views of each scene.

    Args:
        scenes: N scenes, of which the cameras are replaced.
        start: azimuth of the first view in radians, ``[N]``.
        elevation: elevation of all four in radians, ``[N]``.
    """
    azimuth = start[:, None] + np.arange(GROUP_SIZE) * (2 * np.pi / GROUP_SIZE)
    rows = np.arange(len(scenes)).repeat(GROUP_SIZE)
    return replace(
        scenes[rows],
        azimuth=(azimuth.flatten() + np.pi) % (2 * np.pi) - np.pi,
        elevation=elevation[rows],
    )


def scene_poses(scenes: Scenes) -> Float[Tensor, "n 4 4"]:
    """Return the camera-to-world matrices of scenes."""
    azimuth, elevation = torch.from_numpy(scenes.azimuth), torch.from_numpy(scenes.elevation)
    return orbit_cameras(azimuth, elevation, torch.from_numpy(scenes.distance), _FOV).pose.float()


def scene_cameras(scenes: Scenes) -> Float[Tensor, "n 16"]:
    """Return the cameras of scenes as a multi-view network takes them."""
    return camera_labels(scene_poses(scenes))


def prepare_groups(folder: Path, count: int, vae: Path) -> None:
    """Render and encode groups for training into a folder, as far as they are not there already.

    Files hold 1000 groups each, so that an interrupted preparation, or one of more groups, goes on.

    Args:
        folder: gets ``0000.npz`` and so on, with the latents in fp16 and the scenes.
        count: number of groups.
        vae: folder of the autoencoder.
    """
    net = None
    for shard in range(math.ceil(count / _SHARD_SIZE)):
        path, size = folder / f"{shard:04d}.npz", min(_SHARD_SIZE, count - shard * _SHARD_SIZE)
        if path.exists() and len(_read_shard(path)[1]) >= GROUP_SIZE * size:
            continue
        net = net or AutoencoderKL.from_pretrained(vae)
        folder.mkdir(parents=True, exist_ok=True)
        scenes = random_groups(_SHARD_SIZE, np.random.default_rng((_SCENES_SEED, shard)))
        scenes = scenes[slice(0, GROUP_SIZE * size)]
        latents = encode_means(net, render_scenes(scenes)).half().numpy()
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, latents=latents, **vars(scenes))
        print(f"groups of views: {shard * _SHARD_SIZE + size} of {count}", flush=True)


def _read_shard(path: Path) -> tuple[np.ndarray, Scenes]:
    with np.load(path) as file:
        return file["latents"], Scenes(**{field.name: file[field.name] for field in fields(Scenes)})


@cache
def load_groups(folder: Path, count: int) -> tuple[np.ndarray, Scenes]:
    """Load the first groups of a prepared folder, once per process.

    Args:
        folder: filled by ``prepare_groups``.
        count: number of groups.

    Returns:
        Latents ``[4 * count, 4, 16, 16]`` in fp16 and their scenes.
    """
    shards = [
        _read_shard(folder / f"{shard:04d}.npz") for shard in range(math.ceil(count / _SHARD_SIZE))
    ]
    rows = slice(0, GROUP_SIZE * count)
    names = [field.name for field in fields(Scenes)]
    columns = {name: np.concatenate([getattr(s, name) for _, s in shards])[rows] for name in names}
    return np.concatenate([latents for latents, _ in shards])[rows], Scenes(**columns)
