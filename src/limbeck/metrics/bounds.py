"""Smallest and largest possible value of each metric, which intervals of its mean stay within."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from limbeck.metrics.image_statistics import IMAGE_STATISTICS
from limbeck.metrics.intervals import POSITIVE, SHARE, UNBOUNDED, Interval

_SHARES = (
    *("object", "color", "pattern", "background", "view", "all", "rejected", "fidelity"),
    *("r_precision", "r_precision_shape", "clip", "clip_shape", "clip_r_precision"),
    *("view_accuracy", "janus", "janus_side", "mirrored", "true_color", "color_overlap"),
    *("reached", "kept", "both", "mode_error"),
)
_BOUNDS: dict[str, Interval] = {
    "clip_score": (-1.0, 1.0),
    "clip_edited": (-1.0, 1.0),
    "pick_score": UNBOUNDED,
    "hps": (-1.0, 1.0),
    "image_reward": UNBOUNDED,
    "feature_diversity": (0.0, 2.0),
    "feature_diversity_seeds": (0.0, 2.0),
    "diversity_seeds": POSITIVE,
    "vendi": (1.0, math.inf),
    "vendi_4": (1.0, 4.0),
    "vendi_8": (1.0, 8.0),
    "log_p": UNBOUNDED,
    "energy_distance": UNBOUNDED,
    "sliced_wasserstein": POSITIVE,
    "change": POSITIVE,
    "distance": POSITIVE,
    "mse_outside": POSITIVE,
    "psnr_outside": POSITIVE,
    "ssim_outside": (-math.inf, 1.0),  # -1 is never near, and equal values are no share
    "lpips_outside": POSITIVE,
    "structure_distance": POSITIVE,
    "structure_distance_published": POSITIVE,
}
_BOUNDS |= dict.fromkeys(_SHARES, SHARE) | dict.fromkeys(IMAGE_STATISTICS, POSITIVE)


Bounds = Mapping[str, Interval]
NO_BOUNDS: Bounds = MappingProxyType({})


def read_bounds(report: Mapping[str, Any]) -> Bounds:
    """Bounds of scores of one's own, by name.

    Args:
        report: content of an eval.json.
    """
    return {name: (low, high) for name, (low, high) in report.get("bounds", {}).items()}


def metric_bounds(name: str, own: Bounds = NO_BOUNDS) -> Interval:
    """Smallest and largest possible value of a metric of images.

    Args:
        name: the metric; one that is neither known nor in ``own`` is unbounded.
        own: those of scores of one's own, by name.
    """
    return own.get(name) or _BOUNDS.get(name, UNBOUNDED)
