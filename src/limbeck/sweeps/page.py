"""The page of a sweep: an image matrix over two options, and scores with their intervals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.config.discovery import unknown_name
from limbeck.runs.report.pages import write_page
from limbeck.runs.report.run_data import PageImage, embed_image
from limbeck.runs.report.tables import score_columns, score_text
from limbeck.sweeps.effects_section import effects_section
from limbeck.sweeps.expansion import SEED, option_key
from limbeck.sweeps.planned_runs import format_option, label_of, short_names
from limbeck.sweeps.results import MeanScore, RunResult, Setting, settings_of
from limbeck.system.image_files import image_file_size

_PIXELATED_WIDTH = 128  #: images up to this width are shown without smoothing
_MAX_IMAGE_WIDTH = 192  #: larger images are shrunk to this width
_MANY_RUNS = 100  #: from here on, images are shrunk further so that the page stays small
_SMALL_WIDTH = 96
_MAX_PROMPTS = 4  #: prompts of a run whose images are shown


class MatrixCell(NamedTuple):
    """A run in the image matrix.

    Attributes:
        link: path of its report, relative to the page; empty if there is none.
        images: its first final image of each prompt; empty if there is none.
        text: its options beyond those of row and column.
        state: its state if it is not finished, with the reason; else empty.
    """

    link: str
    images: list[PageImage]
    text: str
    state: str


def write_sweep_page(
    results: Sequence[RunResult], root: Path, rows: str = "", columns: str = ""
) -> Path:
    """Write ``report.html`` of a sweep.

    Args:
        results: the results.
        root: folder of the sweep.
        rows: option of the rows of the image matrix; empty for the first one that varies.
        columns: option of the columns; empty for the next one that varies, or the seed.
    """
    varied = list(results[0].run.options)
    row_key, column_key = matrix_axes(varied, rows, columns)
    settings = settings_of(results)
    scores = score_columns([setting.scores for setting in settings])
    names = short_names(varied)
    failed = [r for r in results if r.state not in ("finished", "waiting")]
    content: dict[str, Any] = {
        "title": results[0].data.title if results[0].data is not None else root.name,
        "facts": _facts(results, failed),
        "row_name": names.get(row_key, ""),
        "column_name": names.get(column_key, ""),
        "column_values": _values(results, column_key),
        "many_prompts": any(r.data is not None and len(r.data.prompts) > 1 for r in results),
        "is_large": len(results) >= _MANY_RUNS,
        "matrix": _matrix(results, root, row_key, column_key),
        "options": {key: name for key, name in names.items() if key != SEED},
        "columns": scores,
        "settings": [_score_row(setting, scores) for setting in settings],
        "has_intervals": any(m.count > 1 for s in settings for m in s.scores.values()),
        "effects": effects_section(results),
        "failed": [(label_of(r.run.options), r.state, r.message, _link(r, root)) for r in failed],
    }
    return write_page("sweep.html.j2", content, root / "report.html")


def matrix_axes(varied: Sequence[str], rows: str = "", columns: str = "") -> tuple[str, str]:
    """Options of rows and columns of the image matrix; empty where there is none.

    Raises:
        ValueError: if one that was asked for does not vary.
    """
    full = {name.replace(" ", "_"): option for option, name in short_names(varied).items()}
    full |= {option: option for option in varied}
    rows, columns = option_key(rows.lstrip("-")), option_key(columns.lstrip("-"))
    for name in filter(None, (rows, columns)):
        if name not in full:
            raise unknown_name("option with several values", name, varied)
    rows, columns = full.get(rows, ""), full.get(columns, "")
    if rows and rows == columns:
        raise ValueError(f"--rows and --columns are both {rows}: choose two options")
    others = [name for name in varied if name not in (rows, columns)]
    rows = rows or (others.pop(0) if others else "")
    columns = columns or (others.pop(0) if others else "")
    return rows, columns


def _facts(results: Sequence[RunResult], failed: Sequence[RunResult]) -> list[str]:
    finished = sum(result.state == "finished" for result in results)
    facts = [f"{len(results)} runs", f"{finished} finished"]
    if failed:
        facts.append(f"{len(failed)} failed")
    if waiting := len(results) - finished - len(failed):
        facts.append(f"{waiting} not finished yet")
    return facts


def _values(results: Sequence[RunResult], key: str) -> list[str]:
    """Values of an option in the order of the runs, numbers by size; one empty without option."""
    if not key:
        return [""]
    values = {format_option(r.run.options[key]): r.run.options[key] for r in results}
    numbers = [float(text) for text in values if text.replace(".", "", 1).lstrip("-").isdigit()]
    if len(numbers) == len(values):
        return sorted(values, key=float)
    return list(values)


def _value(result: RunResult, key: str) -> str:
    return format_option(result.run.options[key]) if key else ""


def _matrix(
    results: Sequence[RunResult], root: Path, rows: str, columns: str
) -> list[tuple[str, list[list[MatrixCell]]]]:
    """Rows of the matrix: the value, and the runs of each column."""
    width = _MAX_IMAGE_WIDTH if len(results) < _MANY_RUNS else _SMALL_WIDTH
    cells: dict[tuple[str, str], list[MatrixCell]] = {}
    for result in results:
        place = _value(result, rows), _value(result, columns)
        rest = {k: v for k, v in result.run.options.items() if k not in (rows, columns)}
        state = "" if result.state == "finished" else result.state
        cell = MatrixCell(_link(result, root), _thumbnails(result, width), label_of(rest), state)
        cells.setdefault(place, []).append(cell)
    column_values = _values(results, columns)
    return [
        (row, [cells.get((row, column), []) for column in column_values])
        for row in _values(results, rows)
    ]


def _link(result: RunResult, root: Path) -> str:
    page = result.folder / "report.html"
    return os.path.relpath(page, root) if page.exists() else ""


def _thumbnails(result: RunResult, width: int) -> list[PageImage]:
    """The first final image of each prompt; of a 3D run, the front of its first particle."""
    if result.state != "finished":
        return []
    first: dict[str, Path] = {}
    files = (result.folder / "final").glob("*.png")
    for path in sorted(files, key=lambda path: (path.stem[:5], "-front" not in path.stem)):
        first.setdefault(path.stem.partition("-")[0], path)
    shown = list(first.values())[:_MAX_PROMPTS]
    return [embed_image(p, width, image_file_size(p)[0] <= _PIXELATED_WIDTH) for p in shown]


def _score_row(setting: Setting, columns: Sequence[str]) -> dict[str, Any]:
    scores = setting.scores
    return {
        "options": setting.options,
        "finished": sum(result.state == "finished" for result in setting.results),
        "cells": [_score_cell(scores.get(name), name) for name in columns],
    }


def _score_cell(score: MeanScore | None, name: str) -> tuple[str, str]:
    """The mean and the ends of its interval as text; the latter may be empty."""
    if score is None:
        return "\N{EN DASH}", ""
    ends = ", ".join(score_text(end, name).removesuffix(" %") for end in score.interval or ())
    return score_text(score.mean, name), f"[{ends}]" if ends else ""
