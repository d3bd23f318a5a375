"""Metrics of evaluated runs as text: a line for one run, a Markdown table for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from limbeck.evaluation.judge import RunEvaluation
from limbeck.evaluation.prompt_metrics import frechet_metric, mean_metrics, seed_diversity
from limbeck.evaluation.run_intervals import metric_interval, run_intervals
from limbeck.metrics.bounds import Bounds, read_bounds
from limbeck.metrics.intervals import Interval
from limbeck.runs.report.image_metrics import IMAGE_METRICS
from limbeck.runs.report.tables import SCORES, score_columns


class _Column(NamedTuple):
    heading: str
    is_percentage: bool = True


_COLUMNS = {
    "object": _Column("object"),
    "color": _Column("color"),
    "true_color": _Column("true color"),
    "color_overlap": _Column("color overlap"),
    "pattern": _Column("pattern"),
    "background": _Column("background"),
    "view_accuracy": _Column("view accuracy"),
    "r_precision": _Column("R"),
    "r_precision_shape": _Column("R shape"),
    "clip_score": _Column("CLIP score", is_percentage=False),
    "clip": _Column("CLIP R"),
    "clip_shape": _Column("CLIP R shape"),
    "pick_score": _Column("PickScore", is_percentage=False),
    "hps": _Column("HPSv2", is_percentage=False),
    "image_reward": _Column("ImageReward", is_percentage=False),
    "janus": _Column("Janus"),
    "janus_side": _Column("Janus side"),
    "mirrored": _Column("mirrored"),
    "rejected": _Column("rejected"),
    "diversity": _Column("diversity", is_percentage=False),
    "feature_diversity": _Column("feature div.", is_percentage=False),
    "diversity_seeds": _Column("across seeds", is_percentage=False),
    "feature_diversity_seeds": _Column("feature div. across", is_percentage=False),
}
#: notes below a table that has the column
_DIVERSITY_NOTES = {
    "diversity": "diversity: between particles of one run",
    "diversity_seeds": "across seeds: between particles of runs of different seeds",
}


def _column(name: str) -> _Column:
    """Heading of a metric; that of a score of the user's own is its name."""
    return _COLUMNS.get(name) or _Column(name.replace("_", " "), is_percentage=False)


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that any row has, scores of the user's own first."""
    own = [n for n in score_columns(rows) if n not in (*_COLUMNS, *SCORES, *IMAGE_METRICS)]
    return own + [name for name in _COLUMNS if any(name in row for row in rows)]


def format_metric(metrics: Mapping[str, float], name: str) -> str:
    """Format a metric with its unit; a dash if it is missing."""
    if name not in metrics:
        return "-"
    if _column(name).is_percentage:
        return f"{100 * metrics[name]:.0f} %"
    return f"{metrics[name]:.3f}"


def summary_line(report: Mapping[str, Any]) -> str:
    """Return all metrics of one run in one line, with their 95 % intervals in parentheses.

    Args:
        report: content of its eval.json.
    """
    metrics = report["mean"]
    intervals, unit = run_intervals(report["prompts"], read_bounds(report))
    parts = []
    for name in _shown([metrics]):
        within = f" ({_interval_text(intervals[name], name)})" if name in intervals else ""
        parts.append(f"{_column(name).heading} {format_metric(metrics, name)}{within}")
    over = f"95 % intervals over {unit}" if intervals else "1 prompt has no interval"
    return f"{', '.join(parts)}; {over}"


def comparison_table(
    evaluations: Sequence[RunEvaluation], names: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return a Markdown table for every family of runs.

    It has a row per prompt, the mean over seeds, then the mean over prompts with its interval and
    the metrics of the true objects.

    Args:
        evaluations: the runs.
        names: headings of families, instead of their labels.
    """
    lines: list[str] = []
    for family in dict.fromkeys(evaluation.family for evaluation in evaluations):
        runs = [evaluation for evaluation in evaluations if evaluation.family == family]
        lines += ["", f"{names.get(family, family)}:", "", *_family_table(runs)]
    return "\n".join(lines)


def _family_table(runs: Sequence[RunEvaluation]) -> list[str]:
    rows = [row for run in runs for row in run.report["prompts"]]
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(row)
    means = {
        prompt: mean_metrics(seeds) | _seed_diversity(runs, prompt)
        for prompt, seeds in by_prompt.items()
    }
    references = [
        mean_metrics([row["reference"] for row in seeds if "reference" in row])
        for seeds in by_prompt.values()
    ]
    footer = {"mean": mean_metrics(list(means.values())), "true objects": mean_metrics(references)}
    names = _shown(list(means.values()))
    table = [["prompt", "runs", *(_column(name).heading for name in names)]]
    for prompt, metrics in means.items():
        values = [format_metric(metrics, name) for name in names]
        table.append([prompt, str(len(by_prompt[prompt])), *values])
    for label, metrics in footer.items():
        if metrics:
            table.append([label, "", *(format_metric(metrics, name) for name in names)])
        if label == "mean":
            units = list(means.values()) if len(means) > 1 else rows
            unit = f"{len(means)} prompts" if len(means) > 1 else f"{len(rows)} runs"
            bounds = read_bounds(runs[0].report)
            intervals = [_format_interval(units, name, bounds) for name in names]
            if len(units) > 1:
                table.append([f"95 % over {unit}", "", *intervals])
    lines = markdown_lines(table)
    notes = [note for name, note in _DIVERSITY_NOTES.items() if name in names]
    if notes:
        lines += ["", "; ".join(notes)]
    distance = frechet_metric([pair for run in runs for pair in run.features])
    if distance:
        value, floor = distance["frechet"], distance["frechet_floor"]
        within = distance.get("frechet_interval")
        over = f"95 % {within[0]:.1f} to {within[1]:.1f}, " if within is not None else ""
        lines += [
            "",
            f"Frechet distance to the true objects: {value:.1f} ({over}floor {floor:.1f})",
        ]
    return lines


def _format_interval(rows: Sequence[Mapping[str, float]], name: str, bounds: Bounds) -> str:
    """95 % interval of the mean over the rows that have a metric; a dash for a single one."""
    interval = metric_interval(name, rows, bounds)
    return "-" if interval is None else _interval_text(interval, name)


def _interval_text(interval: Interval, name: str) -> str:
    if _column(name).is_percentage:
        return f"{100 * interval[0]:z.0f} to {100 * interval[1]:z.0f} %"
    return f"{interval[0]:z.3f} to {interval[1]:z.3f}"


def _seed_diversity(runs: Sequence[RunEvaluation], prompt: str) -> dict[str, float]:
    return seed_diversity([(run.seed, run.images[prompt]) for run in runs if prompt in run.images])


def markdown_lines(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, the first column aligned to the left, the others to the right.

    Args:
        table: texts by row; the ``|`` of prompts is escaped.
    """
    table = [[cell.replace("|", r"\|") for cell in row] for row in table]
    widths = [max(2, *(len(row[i]) for row in table)) for i in range(len(table[0]))]
    cells = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in table
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
