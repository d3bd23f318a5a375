"""Estimates of sets of images as Markdown tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.evaluation.estimates import ImageSetEstimate
from limbeck.evaluation.tables import markdown_lines
from limbeck.runs.report.image_metrics import image_metric_rows, in_table_order

WORLD_FEATURES = "the world's evaluator"  #: name of the network that knows the world only
_FEW_IMAGES = 256  #: fewer are few for KID


def to_json(estimates: Mapping[str, ImageSetEstimate]) -> dict[str, Any]:
    """Estimates as plain values, unscaled; an end or floor that does not exist is null."""
    return {
        name: {
            "value": own.value,
            "low": None if own.interval is None else _finite(own.interval[0]),
            "high": None if own.interval is None else _finite(own.interval[1]),
            "floor": own.floor,
            "n": own.count,
            "over": own.unit,
        }
        for name, own in estimates.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def estimate_table(estimates: Mapping[str, ImageSetEstimate]) -> list[str]:
    """Lines of a table: metric, value, interval, floor, and what the interval is over."""
    rows = image_metric_rows(to_json(estimates))
    table = [["metric", "value", "95 % interval", "floor", "n", "over"], *rows]
    if all(row[3] == "-" for row in rows):
        table = [[*row[:3], *row[4:]] for row in table]
    return markdown_lines(table)


def difference_table(differences: Mapping[str, ImageSetEstimate]) -> list[str]:
    """Lines of a table of differences, each with whether its interval excludes zero.

    Those of shares are in percentage points.
    """
    table = [["metric", "difference", "95 % interval", "zero excluded", "n", "over"]]
    for name in in_table_order(differences):
        own = differences[name]
        (row,) = image_metric_rows(to_json({name: own}))
        shown = [cell.replace(" %", " points") for cell in row[1:3]]  # no relative change
        table.append([row[0], *shown, _excludes_zero(own), *row[4:]])
    return markdown_lines(table)


def _excludes_zero(estimate: ImageSetEstimate) -> str:
    if estimate.interval is None:
        return "-"
    return "yes" if estimate.excludes_zero else "no"


def notes(
    estimates: Sequence[Mapping[str, ImageSetEstimate]], total: int, features: str
) -> list[str]:
    """What a reader of the tables has to know.

    Args:
        estimates: the estimates of each set.
        total: number of images of the largest set.
        features: name of the network of the features.
    """
    lines = [f"features: {features}"]
    known = {"object", "energy_distance"}  # judged by the world or the true law
    if features == WORLD_FEATURES and not any(known & own.keys() for own in estimates):
        lines.append(
            "no image is one of the world's, whose evaluator knows nothing else: judge others in "
            "the features of CLIP, with --clip FOLDER"
        )
    for own in estimates:
        if "object" in own and own["object"].count < own["saturation"].count:
            lines.append(
                f"the evaluator judges {own['object'].count} of {own['saturation'].count} images: "
                "those of 64 x 64 pixels whose prompt names an object of its world"
            )
    compared = max((own["kid"].count for own in estimates if "kid" in own), default=total)
    if compared < total:
        lines.append(
            f"distances are of {compared} images, half of the reference; twice as many reference "
            "images as images use all"
        )
    if compared < _FEW_IMAGES and any("kid" in own for own in estimates):
        lines.append(f"{compared} images are few: KID is usable from 256 on, see the floor")
    return lines
