"""View accuracy, Janus rate (faces where there should be none) and mirrored sides."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.world.scene import (
    ASYMMETRIC,
    ATTRIBUTES,
    OBJECTS,
    OVERHEAD_ELEVATION,
    SIDED,
    VIEWS,
)

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


def has_distinct_sides(obj: int) -> bool:
    """Return whether the left and the right side of an object of the world differ."""
    return OBJECTS[obj] in SIDED


def mirror_metrics(
    verdicts: Int[Tensor, "n 5"], facings: Int[Tensor, "n"], camera: Camera
) -> dict[str, float]:
    """Compute how often an object whose sides differ is the mirror image of what it should be.

    An image in which the evaluator sees none of its objects does not count as mirrored.

    Args:
        verdicts: what ``Evaluator.judge`` returns, in the order of ``ATTRIBUTES``.
        facings: what ``Evaluator.judge_facing`` returns, an index into the world's ``FACINGS``.
        camera: the cameras of the images.

    Returns:
        ``mirrored``: share of the images from the side in which the object faces the wrong way.
        Range [0, 1]; empty if no image is from the side. Sample size: any. Our own measure.
    """
    from_side = view_labels(camera) == SIDE
    if not bool(from_side.any()):
        return {}
    # a camera at positive azimuth stands to the right of the object's front
    wrong = facings != (camera.azimuth < 0).long()
    is_object = verdicts[:, 0] < len(OBJECTS)
    return {"mirrored": (is_object & wrong)[from_side].float().mean().item()}


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
        Range [0, 1]; metrics without images are left out. Sample size: eight views of 32 are from
        behind, so that a single object has a coarse Janus rate. Our own measures.
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
