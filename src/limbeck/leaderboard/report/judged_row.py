"""Judged rows of methods from noise, which two leaderboards have, and their CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.leaderboard.execution.text_to_image import Budget, TunedSetting
from limbeck.metrics.estimate import Estimate


@dataclass(frozen=True)
class CurvePoint:
    """Quality at some cost.

    Attributes:
        steps: optimization or sampling steps.
        passes: network passes per image.
        all: share of images in which every attribute of the prompt is right.
        objective: mean probability of the prompt's attributes, what the tuning compares.
    """

    steps: int
    passes: float
    all: Estimate
    objective: Estimate


@dataclass(frozen=True)
class JudgedRow:
    """A row of the table.

    Attributes:
        name: the method, sampling, or renders.
        budget: what was equal for all methods.
        setting: guidance scale and learning rate; None for renders.
        values: metrics by name; ``diverged`` is the share of prompts whose run was stopped by a
            value that is not finite. Those of ``RowMeasurements`` are among them if measured.
        differences: metrics minus those of SDS, paired by prompt; empty for SDS itself.
        steps: optimization steps.
        passes: network passes per image.
        seconds: CPU time per image.
        curve: quality against network passes; empty if not measured.
    """

    name: str
    budget: Budget
    setting: TunedSetting | None
    values: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    steps: int
    passes: float
    seconds: float
    curve: tuple[CurvePoint, ...] = ()


def to_csv(rows: Sequence[JudgedRow]) -> str:
    """One line per row, budget and metric: value, ends of the interval, costs, settings.

    Lines of ``curve_all`` and ``curve_objective`` have the steps and passes of their point.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["row", "budget", "metric", "value", "low", "high", "guidance", "lr", "steps"]
    writer.writerow([*head, "passes", "seconds"])
    for row in rows:
        setting = row.setting or TunedSetting(0.0, None)
        options = [setting.guidance, setting.lr or None]
        costs = [row.steps, f"{row.passes:.1f}", f"{row.seconds:.3f}"]
        values = dict(row.values)
        values |= {f"{name}_minus_sds": value for name, value in row.differences.items()}
        lines = [(name, value, costs) for name, value in values.items()]
        for point in row.curve:
            spent = [point.steps, f"{point.passes:.1f}", ""]
            lines.append(("curve_all", point.all, spent))
            lines.append(("curve_objective", point.objective, spent))
        for name, value, spent in lines:
            low, high = value.interval or ("", "")
            numbers = [value.value, low, high]
            shown = [f"{x:.5g}" if isinstance(x, float) else x for x in numbers]
            writer.writerow([row.name, row.budget, name, *shown, *options, *spent])
    return text.getvalue()


def setting_text(setting: TunedSetting | None) -> str:
    """Guidance scale and learning rate."""
    if setting is None:
        return ""
    guidance = "-" if setting.guidance is None else f"{setting.guidance:g}"
    return f"{guidance}, {setting.lr:g}" if setting.lr else f"{guidance}, -"
