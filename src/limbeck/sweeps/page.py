"""The page of a sweep: an image matrix over two options, scores, and paired differences."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.config.discovery import unknown_name
from limbeck.metrics.estimate import Estimate
from limbeck.runs.images import SCATTER_FILE
from limbeck.runs.report.page_images import PageImage, embed_image
from limbeck.runs.report.pages import write_page
from limbeck.runs.report.tables import (
    DifferenceCell,
    difference_cell,
    score_columns,
    score_text,
)
from limbeck.sweeps.differences import Comparison, compare_levels
from limbeck.sweeps.effects_section import effects_section
from limbeck.sweeps.expansion import Sweep, option_key
from limbeck.sweeps.planned_runs import format_option, label_of, short_names
from limbeck.sweeps.ranking import search_section
from limbeck.sweeps.results import (
    UNFINISHED,
    RunResult,
    Setting,
    count_evaluated,
    judges_of,
    option_values,
    setting_options,
    settings_of,
    varies_more_in_prompts,
)
from limbeck.sweeps.score_plots import score_plots
from limbeck.system.image_files import image_file_size

_PIXELATED_WIDTH = 128  #: images up to this width are shown without smoothing
_MAX_IMAGE_WIDTH = 192  #: larger images are shrunk to this width
_MANY_RUNS = 100  #: from here on, images are shrunk further so that the page stays small
_SMALL_WIDTH = 96
_TITLE_PROMPTS = 3  #: prompts in the title of the page
_MAX_PROMPTS = 4  #: prompts of a run whose images are shown
STATE = "state"  #: key of the filter by state, which no option is called
_MAX_FILTER_VALUES = 40  #: an option of more values, such as a random draw, has no filter


class MatrixCell(NamedTuple):
    """A run in the image matrix.

    Attributes:
        link: path of its report, relative to the page; empty if there is none.
        images: its first final image of each prompt; empty if there is none.
        text: its options beyond those of row and column.
        state: its state if it is not finished; else empty.
        choices: number of its value in each filter.
    """

    link: str
    images: list[PageImage]
    text: str
    state: str
    choices: str


class SweepPage:
    """Writes ``report.html`` of a sweep, also while it goes on.

    Args:
        root: folder of the sweep.
        rows: option of the rows of the image matrix; empty for the first one that varies.
        columns: option of the columns; empty for the next one that varies, or the seed.
        sweep: the sweep, if it searches for the best setting.
    """

    def __init__(self, root: Path, rows: str = "", columns: str = "", sweep: Sweep | None = None):
        self.root, self.rows, self.columns, self.sweep = root, rows, columns, sweep
        self._images: dict[tuple[Path, int], list[PageImage]] = {}

    def write(
        self, results: Sequence[RunResult], reload_seconds: int = 0, progress: str = ""
    ) -> Path:
        """Write the page.

        Args:
            results: the results.
            reload_seconds: for a sweep that goes on: the page reloads itself after this time.
            progress: how far it is, in one line.
        """
        varied = list(results[0].run.options)
        row_key, column_key = matrix_axes(varied, self.rows, self.columns)
        settings = settings_of(results)
        scores = score_columns([setting.scores for setting in settings])
        names = short_names(varied)
        failed = [r for r in results if r.state not in ("finished", *UNFINISHED)]
        filters = _filters(results, names)
        prompts = max(len(next(iter(r.run.stages.values())).prompts) for r in results)
        has_scatters = any((result.folder / SCATTER_FILE).is_file() for result in results)
        content: dict[str, Any] = {
            "title": _title(results, self.root),
            "facts": _facts(results, failed),
            "reload_seconds": reload_seconds,
            "progress": progress,
            "filters": filters,
            "row_name": names.get(row_key, ""),
            "column_name": names.get(column_key, ""),
            "column_values": option_values(results, column_key) if column_key else [""],
            "prompts": prompts,
            "images_per_run": 1 if has_scatters else min(prompts, _MAX_PROMPTS),
            "has_scatters": has_scatters,
            "is_large": len(results) >= _MANY_RUNS,
            "matrix": self._matrix(results, row_key, column_key, filters),
            "options": {key: names[key] for key in setting_options(results)},
            "columns": scores,
            "search": None if self.sweep is None else search_section(results, self.sweep),
            "settings": [_score_row(setting, scores, filters) for setting in settings],
            "unit": "prompts" if varies_more_in_prompts(results) else "seeds",
            "evaluated": _evaluated_text(results),
            "has_intervals": any(m.num_units > 1 for s in settings for m in s.scores.values()),
            "comparisons": [_comparison(c, scores, names) for c in compare_levels(results)],
            "score_plots": [],
            "effects": None,
            "failed": [_failed_row(r, self.root, filters) for r in failed],
        }
        if not reload_seconds:  # plots take seconds, so they come when the sweep has ended
            content["effects"] = effects_section(results)
            if content["effects"] is None and scores:
                content["score_plots"] = score_plots(settings, scores)
        return write_page("sweep.html.j2", content, self.root / "report.html")

    def _matrix(
        self, results: Sequence[RunResult], rows: str, columns: str, filters: Sequence[Filter]
    ) -> list[tuple[str, list[list[MatrixCell]]]]:
        """Rows of the matrix: the value, and the runs of each column."""
        cells: dict[tuple[str, str], list[MatrixCell]] = {}
        for result in results:
            place = _value(result, rows), _value(result, columns)
            rest = {k: v for k, v in result.run.options.items() if k not in (rows, columns)}
            state = "" if result.state == "finished" else result.state
            link, images = _link(result, self.root), self._thumbnails(result, len(results))
            cell = MatrixCell(link, images, label_of(rest), state, _choices(result, filters))
            cells.setdefault(place, []).append(cell)
        column_values = option_values(results, columns) if columns else [""]
        return [
            (row, [cells.get((row, column), []) for column in column_values])
            for row in (option_values(results, rows) if rows else [""])
        ]

    def _thumbnails(self, result: RunResult, runs: int) -> list[PageImage]:
        """First final image of each prompt; of a 3D run, the front of its first particle."""
        if result.state != "finished":
            return []
        width = _MAX_IMAGE_WIDTH if runs < _MANY_RUNS else _SMALL_WIDTH
        key = (result.folder, width)
        if key not in self._images:
            self._images[key] = _embed_finals(result.folder, width)
        return self._images[key]


class Filter(NamedTuple):
    """A choice of runs on the page.

    Attributes:
        key: option, or ``STATE``.
        label: its short name.
        values: its values, as text.
    """

    key: str
    label: str
    values: list[str]


def _filters(results: Sequence[RunResult], names: Mapping[str, str]) -> list[Filter]:
    """The options and the state, where there is something to choose."""
    found = [Filter(key, name, option_values(results, key)) for key, name in names.items()]
    found.append(Filter(STATE, "state", sorted({result.state for result in results})))
    return [choice for choice in found if 1 < len(choice.values) <= _MAX_FILTER_VALUES]


def _choices(result: RunResult, filters: Sequence[Filter]) -> str:
    """Number of the value that a run has in each filter, such as ``0 3 1``."""
    own = {**{k: format_option(v) for k, v in result.run.options.items()}, STATE: result.state}
    return " ".join(str(choice.values.index(own[choice.key])) for choice in filters)


def _title(results: Sequence[RunResult], root: Path) -> str:
    """The prompts of all runs, at most three; before one has begun, the name of the folder."""
    if all(result.data is None for result in results):
        return root.name
    stages = [next(iter(result.run.stages.values())) for result in results]
    prompts = list(dict.fromkeys(prompt for stage in stages for prompt in stage.prompts))
    if "" in prompts:  # of an object from an image
        return next(result.data.title for result in results if result.data is not None)
    more = len(prompts) - _TITLE_PROMPTS
    shown = ", ".join(f"“{prompt}”" for prompt in prompts[:_TITLE_PROMPTS])
    return f"{shown} and {more} more" if more > 0 else shown


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
    if unfinished := len(results) - finished - len(failed):
        facts.append(f"{unfinished} not finished yet")
    return facts


def _evaluated_text(results: Sequence[RunResult]) -> str:
    """Whether metrics of ``limbeck eval`` are among the scores."""
    count, finished = count_evaluated(results), sum(r.state == "finished" for r in results)
    if not count:
        return ""
    if len(judges_of(results)) > 1 and count == finished:
        return (
            "limbeck eval has judged some runs by other networks or scores than others: its "
            "metrics are shown when it has judged all alike."
        )
    if count == finished:
        return "With the metrics of limbeck eval; where both have one, it is that of limbeck eval."
    return (
        f"limbeck eval has judged {count} of {finished} finished runs: its metrics are shown when "
        "it has judged all."
    )


def _value(result: RunResult, key: str) -> str:
    return format_option(result.run.options[key]) if key else ""


def _link(result: RunResult, root: Path) -> str:
    page = result.folder / "report.html"
    return os.path.relpath(page, root) if page.exists() else ""


def _embed_finals(folder: Path, width: int) -> list[PageImage]:
    first: dict[str, Path] = {}
    files = (folder / "final").glob("*.png")
    for path in sorted(files, key=lambda path: (path.stem[:5], "-front" not in path.stem)):
        first.setdefault(path.stem.partition("-")[0], path)
    shown = list(first.values())[:_MAX_PROMPTS]
    if not shown and (folder / SCATTER_FILE).is_file():
        return [embed_image(folder / SCATTER_FILE, 2 * width, False)]
    return [embed_image(p, width, image_file_size(p)[0] <= _PIXELATED_WIDTH) for p in shown]


def _failed_row(result: RunResult, root: Path, filters: Sequence[Filter]) -> dict[str, str]:
    return {
        "label": label_of(result.run.options) or "the run",
        "state": result.state,
        "message": result.message,
        "link": _link(result, root),
        "choices": _choices(result, filters),
    }


def _score_row(
    setting: Setting, columns: Sequence[str], filters: Sequence[Filter]
) -> dict[str, Any]:
    """A row of the table of scores; for a seed or a state, it has no place in a filter."""
    scores = setting.scores
    places = [
        str(choice.values.index(setting.options[choice.key]))
        if choice.key in setting.options
        else "-"
        for choice in filters
    ]
    return {
        "choices": " ".join(places),
        "options": setting.options,
        "finished": sum(result.state == "finished" for result in setting.results),
        "cells": [_score_cell(scores.get(name), name) for name in columns],
    }


def _score_cell(score: Estimate | None, name: str) -> tuple[str, str]:
    """The mean and the ends of its interval as text; the latter may be empty."""
    if score is None:
        return "\N{EN DASH}", ""
    ends = ", ".join(score_text(end, name).removesuffix(" %") for end in score.interval or ())
    return score_text(score.value, name), f"[{ends}]" if ends else ""


def _comparison(
    comparison: Comparison, columns: Sequence[str], names: Mapping[str, str]
) -> dict[str, Any]:
    """Table of differences for each baseline."""
    tables = []
    for baseline, rows in comparison.rows.items():
        shown = []
        for row in rows:
            cells = [_difference_cell(row.scores.get(name), name) for name in columns]
            shown.append((row.level, cells, row.pairs))
        tables.append((baseline, shown))
    return {"label": names.get(comparison.option, "all options together"), "tables": tables}


def _difference_cell(score: Estimate | None, name: str) -> DifferenceCell:
    if score is None:
        return DifferenceCell("\N{EN DASH}", "", False)
    return difference_cell(score, name)
