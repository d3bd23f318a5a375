"""Metrics of a set of images with their intervals, and differences between two sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.evaluation.image_sets import Key, is_pair, prompt_of
from limbeck.evaluation.measured_images import MeasuredImages
from limbeck.evaluation.references import Reference, ReferenceImages, compared_rows
from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.estimate import Estimate
from limbeck.metrics.intervals import (
    SHARE,
    Interval,
    jackknife_interval,
    mean_interval,
    paired_differences,
    prompt_means,
    wilson_interval,
)
from limbeck.metrics.precision_recall import NEIGHBORS
from limbeck.metrics.set_metrics import SET_METRICS, SetMetric

#: metrics of the particles of a prompt whose expectation depends on their number
_BIASED_BY_SIZE = ("sliced_wasserstein", "mode_error")


@dataclass(frozen=True, kw_only=True)
class ImageSetEstimate(Estimate):
    """A metric of a set of images with what a reader has to know of the set.

    Attributes:
        count: number of images, of a metric of the images of a prompt their number of sets.
        unit: what varies in the interval, such as "12 prompts".
        floor: the same of true images at the same sample sizes; None if there is no reference.
    """

    count: int
    unit: str
    floor: float | None = None


def estimate_all(
    measured: MeasuredImages, truth: ReferenceImages | None = None
) -> dict[str, ImageSetEstimate]:
    """Every metric of a set of images.

    Args:
        measured: the images.
        truth: true images for the distances; None: no distances.
    """
    estimates = {}
    for name, values in measured.values.items():
        floors = prompt_means(measured.floors.get(name, {})).values()
        floor = sum(floors) / len(floors) if floors else None
        bounds = metric_bounds(name, measured.bounds)
        estimates[name] = estimate_mean(values, bounds, floor, noun=measured.noun)
    if not measured.has_features:
        return estimates
    reference = None if truth is None else truth.for_images(measured.keys)
    rows = compared_rows(len(measured.keys), reference)
    features, units = measured.features[rows], _units([measured.keys[row] for row in rows.tolist()])
    for metric in SET_METRICS:
        if len(rows) < metric.min_images or (metric.needs_reference and reference is None):
            continue

        def statistic(kept: Tensor, m: SetMetric = metric) -> float:
            return _value(m, features[kept], reference)

        estimates[metric.name] = ImageSetEstimate(
            statistic(torch.arange(len(rows))),
            _jackknife(metric, statistic, units),
            count=len(rows),
            unit=_unit_text(units),
            floor=None if reference is None else _value(metric, reference.held_out, reference),
        )
    return estimates


def estimate_mean(
    values: Mapping[Key, float],
    bounds: Interval,
    floor: float | None = None,
    is_difference: bool = False,
    noun: str = "image",
) -> ImageSetEstimate:
    """Mean over prompts of the means over their images, with its interval.

    Of a single prompt the seeds are the units, each with the mean over its images, as particles of
    one run depend on each other; of a single seed, its images.

    Args:
        values: value by prompt and seed.
        bounds: smallest and largest possible value of the metric.
        floor: the same of true images.
        is_difference: whether the values are differences of two values of the metric.
        noun: what has the values.
    """
    units = _units(list(values))
    by_unit: dict[object, list[float]] = {}
    for unit, value in zip(units, values.values(), strict=True):
        by_unit.setdefault(unit, []).append(value)
    own = [sum(group) / len(group) for group in by_unit.values()]
    value = sum(own) / len(own)
    is_share = bounds == SHARE and not is_difference
    is_single = isinstance(units[0], tuple)
    if is_single and is_share and len(own) > 1 and set(own) <= {0.0, 1.0}:
        interval: Interval | None = wilson_interval(value, len(own))
    else:
        interval = mean_interval(own, bounds, is_difference)
    unit = _unit_text(units, noun)
    return ImageSetEstimate(value, interval, count=len(values), unit=unit, floor=floor)


def estimate_differences(
    a: MeasuredImages, b: MeasuredImages, truth: ReferenceImages | None = None
) -> dict[str, ImageSetEstimate]:
    """Every metric of ``b`` minus that of ``a``, on the prompts and seeds that both have.

    Args:
        a: one set.
        b: the other.
        truth: true images for the distances.

    Returns:
        Differences; empty if no image has the prompt and seed of another.
    """
    estimates = {}
    for name in [name for name in a.values if name in b.values]:
        differences = paired_differences(a.values[name], b.values[name])
        if name in _BIASED_BY_SIZE:
            sizes = [_group_sizes(measured) for measured in (a, b)]
            differences = {k: v for k, v in differences.items() if sizes[0][k] == sizes[1][k]}
        if differences:
            bounds = metric_bounds(name, a.bounds)
            estimates[name] = estimate_mean(differences, bounds, is_difference=True, noun=a.noun)
    row_of = {key: row for row, key in enumerate(b.keys)}
    pairs = [(row, row_of[key]) for row, key in enumerate(a.keys) if key in row_of]
    if not pairs:
        return {}
    if not (a.has_features and b.has_features):
        return estimates
    reference = None if truth is None else truth.for_images([a.keys[row] for row, _ in pairs])
    keep = compared_rows(len(pairs), reference).tolist()
    rows_a, rows_b = (torch.tensor([pairs[k][side] for k in keep]).long() for side in (0, 1))
    x, y, units = a.features[rows_a], b.features[rows_b], _units([a.keys[i] for i in rows_a])
    for metric in SET_METRICS:
        if len(keep) < metric.min_images or (metric.needs_reference and reference is None):
            continue

        def difference(kept: Tensor, m: SetMetric = metric) -> float:
            return _value(m, y[kept], reference) - _value(m, x[kept], reference)

        interval = _jackknife(metric, difference, units, is_difference=True)
        value = difference(torch.arange(len(keep)))
        estimates[metric.name] = ImageSetEstimate(
            value, interval, count=len(keep), unit=_unit_text(units)
        )
    return estimates


def _group_sizes(measured: MeasuredImages) -> dict[Key, int]:
    """Number of images of each prompt of each run, with index 0 as the metrics of a prompt have."""
    sizes: dict[Key, int] = {}
    for unit, (seed, _) in measured.keys:
        prompt = prompt_of(unit)  # the law of an exact prior is one of prompts, also for edits
        sizes[prompt, (seed, 0)] = sizes.get((prompt, (seed, 0)), 0) + 1
    return sizes


def _value(metric: SetMetric, images: Float[Tensor, "n d"], reference: Reference | None) -> float:
    if reference is None:
        return metric.function(images, images)
    size = len(reference.held_out) if metric.equal_sizes else len(reference.features)
    return metric.function(images, reference.features[:size])


def _jackknife(
    metric: SetMetric,
    statistic: Callable[[Int[Tensor, "rows"]], float],
    units: Sequence[object],
    is_difference: bool = False,
) -> Interval | None:
    """Interval of a set metric; None if leaving out one unit leaves too few images."""
    largest = max(Counter(units).values())
    if (len(units) - largest <= NEIGHBORS and metric.equal_sizes) or len(units) - largest < 2:
        return None
    return jackknife_interval(statistic, units, metric.bounds, is_difference)


def _units(keys: Sequence[Key]) -> list[object]:
    """What varies independently: the prompt of each image.

    Of one prompt it is the seed, as particles of one run depend on each other; of one seed, the
    image. Both are tuples.
    """
    prompts: list[object] = [prompt for prompt, _ in keys]
    if len(set(prompts)) > 1:
        return prompts
    seeds: list[object] = [(prompt, seed) for prompt, (seed, _) in keys]
    return seeds if len(set(seeds)) > 1 else list(keys)


def _unit_text(units: Sequence[object], noun: str = "image") -> str:
    count, first = len(set(units)), units[0]
    if not isinstance(first, tuple):
        return f"{count} {'pair' if is_pair(str(first)) else 'prompt'}s"
    unit, varied = first
    whole = "pair" if is_pair(unit) else "prompt"
    if count == 1:
        return f"1 {whole}"
    return f"{count} {'seed' if isinstance(varied, int) else noun}s of 1 {whole}"
