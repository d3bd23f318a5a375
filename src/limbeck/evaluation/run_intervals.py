"""95 % intervals of the metrics of evaluated 3D runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.metrics.bounds import NO_BOUNDS, Bounds, metric_bounds
from limbeck.metrics.intervals import Interval, mean_interval

_COUNTS = ("clip_texts",)  #: no metrics


def metric_interval(
    name: str, rows: Sequence[Mapping[str, Any]], own: Bounds = NO_BOUNDS
) -> Interval | None:
    """95 % interval of the mean of a metric over the rows that have it; None with fewer than two.

    Args:
        name: the metric.
        rows: metrics of independent units, such as prompts.
        own: bounds of scores of one's own, by name.
    """
    values = [row[name] for row in rows if name in row]
    return mean_interval(values, metric_bounds(name, own))


def run_units(prompts: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], str]:
    """What varies independently in a run, and its name.

    Args:
        prompts: metrics by prompt, as eval.json has them.

    Returns:
        The prompts; of a single prompt its particles.
    """
    if len(prompts) > 1:
        return prompts, f"{len(prompts)} prompts"
    particles = prompts[0].get("particles", ())
    return particles, f"{len(particles)} particles of 1 prompt"


def run_intervals(
    prompts: Sequence[Mapping[str, Any]], own: Bounds = NO_BOUNDS
) -> tuple[dict[str, Interval], str]:
    """95 % intervals of the means of a run, and what they are over.

    Args:
        prompts: metrics by prompt, as eval.json has them.
        own: bounds of scores of one's own, by name.

    Returns:
        Intervals by name, empty if nothing varies; and the unit, such as "14 prompts".
    """
    rows, unit = run_units(prompts)
    names = dict.fromkeys(name for row in rows for name, v in row.items() if isinstance(v, float))
    intervals = {n: metric_interval(n, rows, own) for n in names if n not in _COUNTS}
    return {name: ends for name, ends in intervals.items() if ends is not None}, unit
