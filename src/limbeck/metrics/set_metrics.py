"""Metrics of a whole set of images, such as distances to a reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from limbeck.metrics.cmmd import cmmd
from limbeck.metrics.density_coverage import coverage, density
from limbeck.metrics.frechet import frechet_distance
from limbeck.metrics.intervals import POSITIVE, SHARE, UNBOUNDED, Interval
from limbeck.metrics.kid import kid
from limbeck.metrics.precision_recall import NEIGHBORS, precision, recall
from limbeck.metrics.vendi import vendi_score


@dataclass(frozen=True)
class SetMetric:
    """A metric of a whole set of images.

    Attributes:
        name: its name.
        function: its value, from the features of the images and of the reference.
        min_images: fewer say nothing.
        bounds: smallest and largest possible value.
        equal_sizes: compare as many reference images as images.
        needs_reference: whether there is no value without a reference.
    """

    name: str
    function: Callable[[Tensor, Tensor], float]
    min_images: int
    bounds: Interval = UNBOUNDED
    equal_sizes: bool = False
    needs_reference: bool = True


SET_METRICS = (
    SetMetric("vendi", lambda x, _: vendi_score(x), 2, (1.0, math.inf), needs_reference=False),
    SetMetric("kid", kid, 4),
    SetMetric("cmmd", cmmd, 4),
    SetMetric("frechet", frechet_distance, 256, POSITIVE),
    SetMetric("precision", precision, 4 * NEIGHBORS, SHARE, equal_sizes=True),
    SetMetric("recall", recall, 4 * NEIGHBORS, SHARE, equal_sizes=True),
    SetMetric("density", density, 4 * NEIGHBORS, POSITIVE, equal_sizes=True),
    SetMetric("coverage", coverage, 4 * NEIGHBORS, SHARE, equal_sizes=True),
)
