"""Colors that the world's own objects show, from renders through cameras of their own."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.heldout_views import CAMERA_RINGS
from limbeck.metrics.true_color import object_colors
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import BACKGROUNDS, COLORS, Scenes, object_masks, render_scenes

#: elevations in radians of the renders of each color: twice those of the held-out cameras
_ELEVATIONS = np.radians([ring[0] for ring in CAMERA_RINGS for _ in range(2 * ring[1])])


def true_object_colors(prompt: str, seed: int = 0) -> Float[Tensor, "m 3"]:
    """Colors of the pixels of true renders of a prompt that show nothing but the object.

    The cameras are at random azimuths, not at the held-out ones, so that true renders through these
    can be measured in the same way. A color that the prompt leaves open may be any; a pattern is
    plain.

    Args:
        prompt: a prompt that names one of the world's objects.
        seed: seed of cameras and backgrounds.

    Returns:
        Colors in CIE L*a*b*.
    """
    from limbeck.world.render_cache import images_to_tensor

    named, rng = judgeable_attributes(prompt), np.random.default_rng(seed)
    color = np.repeat(named.get("color", np.arange(len(COLORS))), len(_ELEVATIONS))
    count = len(color)
    scenes = Scenes(
        object=np.full(count, named["object"]),
        color=color,
        pattern=np.full(count, named.get("pattern", 0)),
        background=rng.integers(0, len(BACKGROUNDS), count),
        azimuth=rng.uniform(-np.pi, np.pi, count),
        elevation=np.tile(_ELEVATIONS, count // len(_ELEVATIONS)),
        distance=rng.uniform(3.4, 3.8, count),
        brightness=np.ones(count),
    )
    inside = torch.from_numpy(object_masks(scenes)[1])
    return object_colors(images_to_tensor(render_scenes(scenes)), inside)
