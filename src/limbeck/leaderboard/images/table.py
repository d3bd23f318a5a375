"""The table of a leaderboard: judged rows as CSV, Markdown and a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from limbeck.leaderboard.execution.image_results import CellResult
from limbeck.leaderboard.execution.text_to_image import Budget
from limbeck.leaderboard.images.cells import Cell
from limbeck.leaderboard.images.conduct import RowCells
from limbeck.leaderboard.images.judgment import (
    distance_differences,
    judge_distances,
    judge_diversity,
    judge_images,
    judge_retrieval,
    mean_differences,
)
from limbeck.leaderboard.images.protocol import Leaderboard
from limbeck.leaderboard.images.row_measurements import load_row
from limbeck.leaderboard.report.judged_row import JudgedRow, setting_text, to_csv
from limbeck.leaderboard.report.power import power_sentence
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.intervals import SHARE
from limbeck.system.files import write_text
from limbeck.world.evaluator import Evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import Scenes, full_captions, render_scenes

#: metrics in the order of the table
METRICS = (
    "all",
    "r_precision",
    "fidelity",
    "object",
    "color",
    "pattern",
    "background",
    "view",
    "frechet",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "diversity",
    "vendi",
    "saturation",
    "high_frequency",
    "diverged",
    "snr_0.1",
    "snr_0.3",
    "snr_0.5",
    "snr_0.7",
    "snr_0.9",
    "memory_mib",
)


def _load(cells: Sequence[Cell], out: Path) -> tuple[list[CellResult], list[str], Tensor]:
    results = [CellResult.load(out / cell.path) for cell in cells]
    prompts = [prompt for cell in cells for prompt in cell.prompts]
    return results, prompts, torch.cat([result.images for result in results])


def _diverged(cells: Sequence[Cell], results: Sequence[CellResult]) -> Estimate:
    pairs = zip(cells, results, strict=True)
    stopped = [float(i in own.diverged) for cell, own in pairs for i in range(len(cell.prompts))]
    return mean_estimate(stopped, SHARE)


class RowJudge:
    """Judges the images of finished rows, each row once."""

    def __init__(self, board: Leaderboard, out: Path, evaluator: Evaluator) -> None:
        """Draw the renders that images are compared with.

        Args:
            board: the leaderboard.
            out: its folder.
            evaluator: the world's evaluator.
        """
        self._board, self._out, self._evaluator = board, out, evaluator
        scenes = board.reference_scenes(board.num_prompts * board.seeds, 0)
        self._reference = images_to_tensor(render_scenes(scenes))
        self._judged: dict[tuple[RowCells, RowCells | None], JudgedRow] = {}
        self._true_renders: JudgedRow | None = None

    def judge(self, rows: Sequence[RowCells]) -> list[JudgedRow]:
        """Judge rows, and true renders as the last one.

        Args:
            rows: rows of the leaderboard, computed; SDS may be among them or not.
        """
        sds = {row.budget: row for row in rows if row.name == "sds"}
        judged = []
        for row in rows:
            baseline = None if row.name == "sds" else sds.get(row.budget)
            if (row, baseline) not in self._judged:
                self._judged[row, baseline] = self._judge_row(row, baseline)
            measured = load_row(row.measurements, self._out)
            images = self._judged[row, baseline]
            values = {**images.values, **measured.values}
            judged.append(replace(images, values=values, curve=measured.curve))
        if self._true_renders is None:
            self._true_renders = self._judge_renders()
        return [*judged, self._true_renders]

    def _judge_row(self, row: RowCells, baseline: RowCells | None) -> JudgedRow:
        results, prompts, images = _load(row.cells, self._out)
        distances = judge_distances(images, prompts, self._reference, self._evaluator)
        values = self._prompt_values(row)
        differences: dict[str, Estimate] = {}
        if baseline is not None:
            _, _, others = _load(baseline.cells, self._out)
            differences = mean_differences(values, self._prompt_values(baseline))
            differences |= distance_differences(
                images, others, prompts, self._reference, self._evaluator
            )
        count = len(images)
        return JudgedRow(
            row.name,
            row.budget,
            row.setting,
            values | distances,
            differences,
            steps=results[0].steps,
            passes=sum(result.passes * len(result.images) for result in results) / count,
            seconds=sum(result.seconds * len(result.images) for result in results) / count,
        )

    def _prompt_values(self, row: RowCells) -> dict[str, Estimate]:
        """The metrics that are means over prompts."""
        results, prompts, images = _load(row.cells, self._out)
        values = judge_images(images, prompts, self._evaluator)
        values |= judge_retrieval(images, prompts, self._evaluator)
        values["diverged"] = _diverged(row.cells, results)
        if row.diverse:
            _, few, many = _load(row.diverse, self._out)
            values |= judge_diversity(many, few, self._evaluator)
        return values

    def _judge_renders(self) -> JudgedRow:
        """Renders of as many other held-out scenes, judged by their own captions.

        What a perfect method would reach, distances included: the floor of two true draws.
        R-Precision is that of renders of the captions of the comparison, among the same captions.
        """
        scenes = self._board.reference_scenes(len(self._reference), 1)
        captions, pixels = full_captions(scenes), _pixels(scenes)
        values = judge_images(pixels, captions, self._evaluator)
        values |= judge_distances(pixels, captions, self._reference, self._evaluator)
        own, _ = self._board.scenes()
        values |= judge_retrieval(_pixels(own), full_captions(own), self._evaluator)
        return JudgedRow("renders", "passes", None, values, {}, 0, 0.0, 0.0)


def _pixels(scenes: Scenes) -> UInt8[Tensor, "n 3 h w"]:
    return (images_to_tensor(render_scenes(scenes)) * 255).round().to(torch.uint8)


def cell_text(value: Estimate | None) -> str:
    """A value with its interval, as ``.84 [.76, .90]``; empty for None."""
    if value is None:
        return ""
    if value.interval is None:
        return short(value.value)
    return f"{short(value.value)} [{', '.join(map(short, value.interval))}]"


def short(value: float) -> str:
    """Three digits at most, without a leading zero."""
    if math.isinf(value):
        return "∞"
    text = f"{value:z.2f}" if abs(value) < 10 else f"{value:z.1f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def ordered(rows: Sequence[JudgedRow], budget: Budget) -> list[JudgedRow]:
    """The rows of a budget, the best first by ``all``; true renders first of all."""
    own = [row for row in rows if row.budget == budget]
    return sorted(own, key=lambda row: (row.name != "renders", -row.values["all"].value))


def write_leaderboard_table(board: Leaderboard, rows: Sequence[JudgedRow], out: Path) -> None:
    """Write leaderboard.csv and leaderboard.md."""
    write_text(out / "leaderboard.csv", to_csv(rows))
    write_text(out / "leaderboard.md", to_markdown(board, rows))


def to_markdown(board: Leaderboard, rows: Sequence[JudgedRow]) -> str:
    """The tables of all budgets in Markdown."""
    parts = []
    for budget in ("passes", "iterations"):
        own = ordered(rows, budget)  # type: ignore[arg-type]
        if not own:
            continue
        names = [name for name in METRICS if any(name in row.values for row in own)]
        is_passes = budget == "passes"
        equal = f"about {board.passes} passes" if is_passes else f"{board.iterations} steps"
        head = ["", *names, "all minus SDS", "guidance, lr", "steps", "passes", "s"]
        lines = [f"At {equal} per image (sampling: 50 steps of two passes):", ""]
        lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in own:
            cells = [cell_text(row.values.get(name)) for name in names]
            cells += [cell_text(row.differences.get("all")), setting_text(row.setting)]
            costs = [str(row.steps), f"{row.passes:.0f}", f"{row.seconds:.1f}"]
            cells += costs if row.setting else [""] * 3
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
        if power := image_power_sentence(own):
            parts.append(power + "\n")
    if curves := [row for row in ordered(rows, "passes") if row.curve]:
        parts.append(_curves_markdown(curves))
    return "\n".join(parts)


def image_power_sentence(rows: Sequence[JudgedRow]) -> str:
    """The difference to SDS that such a table finds in four of five cases; empty without any.

    Args:
        rows: the rows of one budget.
    """

    def words(name: str, difference: float) -> str:
        return f"{short(difference)} in {name}"

    differences = [row.differences for row in rows]
    return power_sentence(differences, ("all", "object", "kid", "coverage"), "SDS", words)


def _curves_markdown(rows: Sequence[JudgedRow]) -> str:
    """A line per row: passes and quality at each point of its curve."""
    longest = max((row.curve for row in rows), key=len)
    heads = [f"{point.passes / longest[-1].passes:.0%} of them" for point in longest]
    lines = ["Mean probability of the prompt's attributes after so many passes:", ""]
    lines += [f"|  | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        points = [f"{point.passes:.0f}: {cell_text(point.objective)}" for point in row.curve]
        lines.append(f"| {row.name} | {' | '.join(points)} |")
    return "\n".join(lines) + "\n"
