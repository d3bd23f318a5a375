"""Smallest and largest possible value of each metric, which intervals of its mean stay within."""

from __future__ import annotations

import math

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


def metric_bounds(name: str) -> Interval:
    """Smallest and largest possible value of a metric of images; none of a score of one's own."""
    return _BOUNDS.get(name, UNBOUNDED)
