"""The page of a leaderboard on an exact prior."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.leaderboard.exact_priors.judgment import MINUS_START, MINUS_TRUE, ordered_exact_rows
from limbeck.leaderboard.exact_priors.protocol import ExactLeaderboard
from limbeck.leaderboard.exact_priors.table import (
    COMPARED,
    DIFFERENCES,
    chance_text,
    exact_heading,
    exact_number,
    exact_title,
    shown_columns,
)
from limbeck.leaderboard.execution.text_to_image import Budget
from limbeck.leaderboard.report.judged_row import JudgedRow, setting_text
from limbeck.leaderboard.report.page import fill_page
from limbeck.metrics.estimate import Estimate
from limbeck.runs.report.svg_plots import interval_plot

_FOREST = ("energy_distance", "mode_error", "modes", "spread")  #: plotted differences
#: tables of one budget: title, and metrics of which it has those that there are
_GROUPS = (
    ("Distance to the law", ("energy_distance", MINUS_TRUE, MINUS_START, "sliced_wasserstein")),
    ("Modes and density", ("mode_error", "modes", "spread", "log_p", "diverged")),
)
_MEANINGS = {
    "energy_distance": "unbiased energy distance to 1,024 true samples or as many as there are "
    "particles; lower is better, 0 for equal laws. Settings are tuned by it",
    MINUS_TRUE: "energy distance minus that of as many true draws, paired by seed: 0 is the law",
    MINUS_START: "energy distance minus that of the noise that all runs start from, paired by "
    "seed: above 0, the method leads away from the law",
    "sliced_wasserstein": "to as many true samples; lower is better, but not 0 for true draws "
    "either: compare with their row",
    "mode_error": "half the sum of |share - weight| over the modes; lower is better, but not 0 for "
    "true draws either",
    "modes": "modes that hold at least a quarter of their weight",
    "spread": "root mean square distance to the nearest mean, in units of that of the component: 1 "
    "for the law if its modes lie apart, 0 for points at the means",
    "log_p": "mean log-density in nats; right is that of true draws, above is too likely",
    "diverged": "share of runs that were stopped by a value that is not finite; their particles "
    "are those before that step",
}


def _shown(name: str, value: Estimate | None, is_difference: bool = False) -> dict[str, Any]:
    if value is None:
        return {"text": "", "interval": "", "number": "", "differs": False}
    ends = ", ".join(exact_number(name, end) for end in value.interval or ())
    return {
        "text": exact_number(name, value.value),
        "interval": f"[{ends}]" if ends else "",
        "number": value.value,
        "differs": is_difference and value.excludes_zero,
    }


def _tables(rows: Sequence[JudgedRow]) -> list[dict[str, Any]]:
    """The tables of one budget by group, the last one of costs."""
    present, tables = shown_columns(rows), []
    for title, metrics in _GROUPS:
        heads: list[tuple[str, str]] = []
        columns: list[tuple[str, bool]] = []  # metric, and whether it is the difference to SDS
        for name in metrics:
            if name not in present:
                continue
            heads.append((exact_heading(name), _MEANINGS[name]))
            columns.append((name, False))
            if name in COMPARED and any(name in row.differences for row in rows):
                meaning = f"{exact_heading(name)} minus that of SDS, paired by seed"
                heads.append(("minus SDS", meaning))
                columns.append((name, True))
        shown = [(row.name, [_cell(row, *column) for column in columns]) for row in rows]
        if columns:
            tables.append({"title": title, "heads": heads, "rows": shown})
    return [*tables, _costs(rows)]


def _cell(row: JudgedRow, name: str, is_difference: bool) -> dict[str, Any]:
    values = row.differences if is_difference else row.values
    return _shown(name, values.get(name), is_difference or name in DIFFERENCES)


def _costs(rows: Sequence[JudgedRow]) -> dict[str, Any]:
    heads = [
        ("guidance, lr", "what was tuned"),
        ("steps", "optimization or sampling steps"),
        ("passes", "network passes per particle"),
        ("s", "CPU seconds per run"),
    ]
    shown = []
    for row in rows:
        if row.setting is None:
            continue
        texts = (setting_text(row.setting), str(row.steps), f"{row.passes:.0f}")
        numbers = (row.setting.guidance or 0, row.steps, row.passes, row.seconds)
        cells = [
            {"text": text, "number": number, "interval": "", "differs": False}
            for text, number in zip((*texts, f"{row.seconds:.1f}"), numbers, strict=True)
        ]
        shown.append((row.name, cells))
    return {"title": "Settings and costs", "heads": heads, "rows": shown}


def _forests(rows: Sequence[JudgedRow]) -> list[tuple[str, str]]:
    """Plots of the differences to SDS, with intervals."""
    plots = []
    for name in _FOREST:
        found = [(row.name, row.differences[name]) for row in rows if name in row.differences]
        if found:
            found.sort(key=lambda item: item[1].value)
            lines = [(label, value.value, value.interval) for label, value in found]
            plots.append((exact_heading(name), interval_plot(lines)))
    return plots


def write_exact_page(
    board: ExactLeaderboard, rows: Sequence[JudgedRow], candidates: int, out: Path
) -> Path:
    """Write leaderboard.html, with the figure of the folder.

    Args:
        board: the leaderboard.
        rows: its rows, judged.
        candidates: settings that were tried for each method.
        out: its folder, which holds leaderboard.png.
    """
    budgets: tuple[Budget, ...] = ("passes", "iterations") if board.iterations else ("passes",)
    sections = []
    for budget in budgets:
        own = ordered_exact_rows(rows, budget)
        tables = _tables(own)
        sections.append(
            {"title": exact_title(board, budget), "tables": tables, "forests": _forests(own)}
        )
    image = base64.b64encode((out / "leaderboard.png").read_bytes()).decode()
    shown = shown_columns(rows)
    content: dict[str, Any] = {
        "board": board,
        "count": len(board.rows),
        "candidates": candidates,
        "sections": sections,
        "chance": chance_text(rows, board),
        "meanings": {exact_heading(name): _MEANINGS[name] for name in shown},
        "figure": f"data:image/png;base64,{image}",
    }
    return fill_page(Path(__file__).with_name("page.html.j2"), content, out)
