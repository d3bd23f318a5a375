"""View accuracy, and the rate of the Janus problem: faces where there should be none."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.world.scene import ASYMMETRIC, ATTRIBUTES, OBJECTS, OVERHEAD_ELEVATION, VIEWS

FRONT, SIDE, BACK = (VIEWS.index(name) for name in ("front", "side", "back"))
_OVERHEAD = VIEWS.index("overhead")


def view_labels(camera: Camera) -> Int[Tensor, "b"]:
    """Return the index into the world's ``VIEWS`` of what each camera sees.

    Overhead from ``OVERHEAD_ELEVATION``; else by azimuth: front within 45 degrees, back beyond 135.
    """
    azimuth = camera.azimuth.abs()
    by_azimuth = (azimuth > math.pi / 4).long() + (azimuth > 3 * math.pi / 4).long()
    return torch.where(camera.elevation >= OVERHEAD_ELEVATION, _OVERHEAD, by_azimuth)


def has_distinct_views(obj: int) -> bool:
    """Return whether the four views of an object of the world differ."""
    return OBJECTS[obj] in ASYMMETRIC


def view_metrics(verdicts: Int[Tensor, "n 5"], views: Int[Tensor, "n"]) -> dict[str, float]:
    """Compute the metrics of images of an object whose views differ.

    An image in which the evaluator sees none of its objects counts against ``view_accuracy`` and
    not as a front.

    Args:
        verdicts: what ``Evaluator.judge`` returns, in the order of ``ATTRIBUTES``.
        views: true view of each image.

    Returns:
        ``view_accuracy``: share of images whose view the evaluator names. ``janus``: share of the
        images from behind in which it sees a front. ``janus_side``: the same of those from the
        side.
        Range [0, 1]; metrics without images are left out.
    """
    is_object = verdicts[:, 0] < len(OBJECTS)
    named = verdicts[:, list(ATTRIBUTES).index("view")]
    shows_front = is_object & (named == FRONT)
    hits_and_rows: dict[str, tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]] = {
        "view_accuracy": (is_object & (named == views), torch.ones_like(is_object)),
        "janus": (shows_front, views == BACK),
        "janus_side": (shows_front, views == SIDE),
    }
    return {
        name: hits[rows].float().mean().item()
        for name, (hits, rows) in hits_and_rows.items()
        if bool(rows.any())
    }
