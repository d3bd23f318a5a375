"""Estimates of sets of images as Markdown tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.evaluation.estimates import Estimate
from limbeck.evaluation.tables import markdown_lines


@dataclass(frozen=True)
class _Column:
    heading: str
    scale: float = 1.0
    digits: int = 3
    unit: str = ""


def _share(heading: str) -> _Column:
    return _Column(heading, 100.0, 1, " %")


_COLUMNS = {
    "clip_score": _Column("CLIP score x 100", 100.0, 2),
    "clip_r_precision": _share("CLIP R-Precision"),
    "object": _share("object"),
    "color": _share("color"),
    "pattern": _share("pattern"),
    "background": _share("background"),
    "view": _share("view"),
    "all": _share("all attributes"),
    "r_precision": _share("R-Precision"),
    "rejected": _share("rejected"),
    "vendi": _Column("Vendi score", digits=2),
    "vendi_per_prompt": _Column("Vendi score per prompt", digits=2),
    "feature_diversity": _Column("feature diversity"),
    "diversity": _Column("diversity"),
    "kid": _Column("KID x 1000", 1000.0, 2),
    "cmmd": _Column("CMMD x 1000", 1000.0, 3),
    "frechet": _Column("Frechet distance", digits=2),
    "precision": _share("precision"),
    "recall": _share("recall"),
    "density": _Column("density"),
    "coverage": _share("coverage"),
    "log_p": _Column("mean log p", digits=1),
    "energy_distance": _Column("energy distance"),
    "sliced_wasserstein": _Column("sliced Wasserstein"),
    "mode_error": _share("mode error"),
    "saturation": _Column("saturation"),
    "clipped": _share("clipped"),
    "total_variation": _Column("total variation"),
}


def estimate_table(estimates: Mapping[str, Estimate]) -> list[str]:
    """Lines of a table: metric, value, interval, floor, and what the interval is over."""
    has_floor = any(estimate.floor is not None for estimate in estimates.values())
    table = [["metric", "value", "95 % interval", *["floor"] * has_floor, "n", "over"]]
    for name, column in _COLUMNS.items():
        if name not in estimates:
            continue
        own = estimates[name]
        floor = "-" if own.floor is None else _text(own.floor, column)
        cells = [_text(own.value, column), _interval_text(own, column), *[floor] * has_floor]
        table.append([column.heading, *cells, str(own.count), own.unit])
    return markdown_lines(table)


def difference_table(differences: Mapping[str, Estimate]) -> list[str]:
    """Lines of a table of differences, each with whether its interval excludes zero."""
    table = [["metric", "difference", "95 % interval", "zero excluded", "n", "over"]]
    for name, column in _COLUMNS.items():
        if name not in differences:
            continue
        own = differences[name]
        excluded = "-"
        if own.interval is not None:
            excluded = "yes" if own.interval[0] > 0 or own.interval[1] < 0 else "no"
        cells = [_text(own.value, column), _interval_text(own, column), excluded]
        table.append([column.heading, *cells, str(own.count), own.unit])
    return markdown_lines(table)


def _text(value: float, column: _Column) -> str:
    return f"{column.scale * value:.{column.digits}f}{column.unit}"


def _interval_text(estimate: Estimate, column: _Column) -> str:
    if estimate.interval is None:
        return "-"
    low, high = (f"{column.scale * end:.{column.digits}f}" for end in estimate.interval)
    return f"{low} to {high}"


def to_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
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


def notes(estimates: Sequence[Mapping[str, Estimate]], total: int, features: str) -> list[str]:
    """What a reader of the tables has to know.

    Args:
        estimates: the estimates.
        total: number of images of the largest set.
        features: name of the network of the features.
    """
    lines = [f"features: {features}"]
    compared = [own["kid"].count for own in estimates if "kid" in own]
    if compared and max(compared) < total:
        lines.append(
            f"distances are of {max(compared)} images, half of the reference; twice as many "
            "reference images as images use all"
        )
    if compared and max(compared) < 256:
        lines.append(f"{max(compared)} images are few: KID is usable from 256 on, see the floor")
    return lines
