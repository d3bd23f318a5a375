"""The table of a leaderboard of 3D recipes, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.leaderboard.assets.statistics import (
    DIVERSITIES,
    SHARES,
    AssetRow,
    StageChange,
    StageResults,
)
from limbeck.leaderboard.report.markdown import difference_text, markdown_table, value_text
from limbeck.leaderboard.report.power import power_sentence

#: metrics whose differences are in the Markdown table, and in which stages are compared
COMPARED = ("object", "view", "janus", "fidelity", "color_overlap", "all")
SHOWN = (
    "all",
    "object",
    "view",
    "janus",
    "fidelity",
    "color",
    "true_color",
    "color_overlap",
    *DIVERSITIES,
)


def asset_rows_to_csv(rows: Sequence[AssetRow], changes: Sequence[StageChange]) -> str:
    """One line per row and metric: value, ends of the interval, objects, costs.

    Args:
        rows: the rows.
        changes: what the stages change; ``NAME_minus_STAGE`` in the metric.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["row", "stage", "metric", "value", "low", "high", "objects", "runs", "stopped"]
    writer.writerow([*head, "steps", "rows_through_network", "cpu_seconds"])
    for row in rows:
        stage = row.stage
        costs = [row.steps, row.evaluations, row.cpu_seconds]
        tail = [len(stage.results), stage.stopped, *(f"{cost:.6g}" for cost in costs)]
        minus = {f"{name}_minus_baseline": value for name, value in row.differences.items()}
        for change in changes:
            if (change.row, change.later) == (stage.row, stage.stage) and stage.stage:
                own = change.differences.items()
                minus |= {f"{name}_minus_stage_{change.earlier}": value for name, value in own}
        for name, value in {**row.values, **minus}.items():
            numbers = [value.value, *(value.interval or ("", ""))]
            shown = [f"{x:.5g}" if isinstance(x, float) else x for x in numbers]
            writer.writerow([stage.row, stage.stage, name, *shown, len(value.by_unit), *tail])
    return text.getvalue()


def runs_to_csv(stages: Sequence[StageResults], out: Path) -> str:
    """One line per row, stage, object and seed: all metrics, costs and the run folder.

    Args:
        stages: the stages.
        out: folder of the leaderboard, which run folders are named relative to.
    """
    text = io.StringIO()
    head = ["row", "stage", "object_name", "seed", "state", *SHARES]
    writer = csv.DictWriter(
        text, [*head, "steps", "rows_through_network", "cpu_seconds", "folder"], lineterminator="\n"
    )
    writer.writeheader()
    for stage in stages:
        for (name, seed), result in stage.results.items():
            known = {key: f"{value:.5g}" for key, value in result.metrics.items()}
            where: dict[str, Any] = {
                "row": stage.row,
                "stage": stage.stage,
                "object_name": name,  # the metric is called "object"
                "seed": seed,
            }
            costs = {"steps": result.steps, "rows_through_network": result.evaluations}
            costs["cpu_seconds"] = round(result.cpu_seconds)
            state = "judged" if result.images is not None else "stopped"
            writer.writerow(
                where
                | {"state": state}
                | known
                | costs
                | {"folder": result.folder.relative_to(out).as_posix()}
            )
    return text.getvalue()


def asset_rows_to_markdown(
    rows: Sequence[AssetRow], changes: Sequence[StageChange], baseline: str, command: str = ""
) -> str:
    """The tables in Markdown: rows, stages, and the share of right views by object.

    Args:
        rows: the rows.
        changes: what the stages change.
        baseline: row that the others are compared with.
        command: command line that made them.
    """
    keys = {key for row in rows for key in row.stage.results}
    objects, seeds = len({name for name, _ in keys}), len({seed for _, seed in keys})
    title = (
        f"{objects} objects x {seeds} seeds, 32 held-out cameras. In brackets 95 % intervals over "
        "objects; bold if that of a difference excludes zero."
    )
    names = [name for name in SHOWN if any(name in row.values for row in rows)]
    compared = [name for name in COMPARED if any(name in row.differences for row in rows)]
    head = ["", *map(heading, names), *(f"{heading(name)} minus {baseline}" for name in compared)]
    table = [[*head, "steps", "rows", "CPU s", "runs"]]
    for row in rows:
        cells = [value_text(row.values.get(n), partial(format_number, n)) for n in names]
        cells += [
            difference_text(row.differences.get(n), partial(format_number, n)) for n in compared
        ]
        costs = [f"{row.steps:.0f}", f"{row.evaluations:.0f}", f"{row.cpu_seconds:.0f}"]
        cells += [*costs, runs_text(row.stage)] if row.stage.planned else [""] * 4
        table.append([row.stage.name, *cells])
    parts = [f"    {command}" if command else "", title]
    parts += [markdown_table(table), asset_power_sentence(rows, baseline)]
    if changes:
        parts.append(_stages_to_markdown(changes))
    parts.append(_objects_to_markdown(rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _stages_to_markdown(changes: Sequence[StageChange]) -> str:
    table = [["stage", "compared with", *map(heading, COMPARED)]]
    for change in changes:
        cells = [
            difference_text(change.differences.get(n), partial(format_number, n)) for n in COMPARED
        ]
        table.append([f"{change.row}, {change.later}", change.earlier, *cells])
    return markdown_table(table)


def _objects_to_markdown(rows: Sequence[AssetRow]) -> str:
    objects = list(dict.fromkeys(name for row in rows for name in row.objects))
    table = [["object", *(row.stage.name for row in rows)]]
    for name in objects:
        table.append([name, *(shares_text(row.objects.get(name, ())) for row in rows)])
    return markdown_table(table)


def runs_text(stage: StageResults) -> str:
    """Number of judged runs, of how many if some are missing, and of stopped ones."""
    judged, missing = len(stage.results), stage.planned - len(stage.results)
    text = f"{judged} of {stage.planned}" if missing else str(judged)
    return f"{text}, {stage.stopped} stopped" if stage.stopped else text


def shares_text(shares: Sequence[float]) -> str:
    """Shares of several seeds, as ``91, 94 %``."""
    return f"{', '.join(f'{100 * share:.0f}' for share in shares)} %" if shares else ""


def heading(name: str) -> str:
    """Name of a metric in a table."""
    names = {"janus": "Janus", "janus_side": "Janus side", "r_precision": "R-Precision"}
    names["r_precision_shape"] = "R-Precision of the shape"
    return names.get(name, name.replace("_", " "))


def format_number(name: str, value: float) -> str:
    """A value or difference of a metric."""
    if name in SHARES:
        return f"{round(100 * value)} %"  # an integer has no negative zero
    return f"{value:z.3f}"


def asset_power_sentence(rows: Sequence[AssetRow], baseline: str) -> str:
    """The difference that such a table finds in four of five cases; empty without any.

    Args:
        rows: the rows.
        baseline: row that the others are compared with.
    """

    def words(name: str, difference: float) -> str:
        return f"{100 * difference:.0f} points in {heading(name)}"

    return power_sentence([row.differences for row in rows], COMPARED, baseline, words)
