"""Does what is seen from a side look like that side? View agreement, and how often a face is seen where there is none."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.world.scene import ASYMMETRIC, ATTRIBUTES, OBJECTS, OVERHEAD, VIEWS

FRONT, SIDE, BACK, ABOVE = (VIEWS.index(name) for name in ("front", "side", "back", "overhead"))


def side_of(camera: Camera) -> Int[Tensor, "b"]:
    """Index into the world's ``VIEWS`` of what each camera looks at: overhead from ``OVERHEAD`` on; else by azimuth, front within
    45 degrees, back beyond 135."""
    turned = camera.azimuth.abs()
    around = (turned > math.pi / 4).long() + (turned > 3 * math.pi / 4).long()
    return torch.where(camera.elevation >= OVERHEAD, ABOVE, around)


def sided(obj: int) -> bool:
    """Whether the four views of an object of the world differ."""
    return OBJECTS[obj] in ASYMMETRIC


def view_figures(verdicts: Int[Tensor, "n 5"], sides: Int[Tensor, "n"]) -> dict[str, float]:
    """Of pictures of an object whose views differ, taken from ``sides``: ``view``, share whose side the evaluator names; ``janus``,
    share of those from behind in which it sees a front; ``janus_side``, the same of those from the side.

    A picture in which it sees none of its objects shows no side: it counts against ``view`` and as no front. A figure without
    pictures is left out. Range [0, 1], no unit.
    """
    there = verdicts[:, 0] < len(OBJECTS)
    seen = verdicts[:, list(ATTRIBUTES).index("view")]
    front = there & (seen == FRONT)
    wanted: dict[str, tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]] = {
        "view": (there & (seen == sides), torch.ones_like(there)),
        "janus": (front, sides == BACK),
        "janus_side": (front, sides == SIDE),
    }
    return {
        name: hit[rows].float().mean().item()
        for name, (hit, rows) in wanted.items()
        if bool(rows.any())
    }
