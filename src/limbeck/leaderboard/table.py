"""The table of a leaderboard: judged rows as CSV, Markdown and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from limbeck.leaderboard.cells import Cell, CellResult
from limbeck.leaderboard.conduct import RowCells
from limbeck.leaderboard.judgment import Value, judge_diversity, judge_images, mean_value
from limbeck.leaderboard.protocol import SAMPLING, Budget, Leaderboard, TunedSetting
from limbeck.system.checkpoint import write_text
from limbeck.world.evaluator import Evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import full_captions, render_scenes

#: metrics in the order of the table, each with what is better
METRICS = {
    "all": "higher",
    "object": "higher",
    "color": "higher",
    "pattern": "higher",
    "background": "higher",
    "view": "higher",
    "fidelity": "higher",
    "frechet": "lower",
    "kid": "lower",
    "diversity": "higher",
    "vendi": "higher",
    "saturation": "like renders",
    "high_frequency": "like renders",
}


@dataclass(frozen=True)
class JudgedRow:
    """A row of the table.

    Attributes:
        name: the method, sampling, or renders.
        budget: what was equal for all methods.
        setting: guidance scale and learning rate; None for renders.
        values: metrics by name.
        difference: ``all`` minus that of SDS, paired by prompt; None for SDS itself.
        steps: optimization steps.
        passes: network passes per image.
        seconds: processor time per image.
        diverged: share of prompts whose run was stopped by a value that is not finite.
    """

    name: str
    budget: Budget
    setting: TunedSetting | None
    values: Mapping[str, Value]
    difference: Value | None
    steps: int
    passes: float
    seconds: float
    diverged: float


def _load(cells: Sequence[Cell], out: Path) -> tuple[list[CellResult], list[str], Tensor]:
    results = [CellResult.load(out / cell.path) for cell in cells]
    prompts = [prompt for cell in cells for prompt in cell.prompts]
    return results, prompts, torch.cat([result.images for result in results])


def _renders(board: Leaderboard, count: int, part: int) -> Tensor:
    return images_to_tensor(render_scenes(board.reference_scenes(count, part)))


def judge_rows(
    board: Leaderboard, rows: Sequence[RowCells], out: Path, evaluator: Evaluator
) -> list[JudgedRow]:
    """Judge the images of all rows, and true renders as the last one.

    Args:
        board: the leaderboard.
        rows: its rows, computed.
        out: its folder.
        evaluator: the world's evaluator.
    """
    count = board.num_prompts * board.seeds
    reference = _renders(board, count, 0)
    judged = []
    for row in rows:
        results, prompts, images = _load(row.cells, out)
        values = judge_images(images, prompts, reference, evaluator)
        if row.diverse:
            _, few, many = _load(row.diverse, out)
            values |= judge_diversity(many, few, evaluator)
        judged.append(
            JudgedRow(
                row.name,
                row.budget,
                row.setting,
                values,
                None,
                steps=results[0].steps,
                passes=sum(result.passes for result in results) / len(results),
                seconds=sum(result.seconds for result in results) / len(results),
                diverged=sum(len(result.diverged) for result in results) / len(prompts),
            )
        )
    return [*_with_differences(judged), _true_renders(board, reference, evaluator)]


def _with_differences(rows: Sequence[JudgedRow]) -> list[JudgedRow]:
    """Add the paired difference to SDS at the same budget."""
    sds = {row.budget: row.values["all"].by_prompt for row in rows if row.name == "sds"}
    out = []
    for row in rows:
        other = sds.get("passes" if row.name == SAMPLING else row.budget)
        if other is not None and row.name != "sds":
            own = row.values["all"].by_prompt
            pairs = [a - b for a, b in zip(own, other, strict=True)]
            row = replace(row, difference=mean_value(pairs, (-1.0, 1.0)))
        out.append(row)
    return out


def _true_renders(board: Leaderboard, reference: Tensor, evaluator: Evaluator) -> JudgedRow:
    """Renders of as many other held-out scenes, judged by their own captions.

    What a perfect method would reach, distances included.
    """
    scenes = board.reference_scenes(len(reference), 1)
    pixels = (images_to_tensor(render_scenes(scenes)) * 255).round().to(torch.uint8)
    values = judge_images(pixels, full_captions(scenes), reference, evaluator)
    return JudgedRow("renders", "passes", None, values, None, 0, 0.0, 0.0, 0.0)


def to_csv(rows: Sequence[JudgedRow]) -> str:
    """One line per row, budget and metric: value, ends of the interval, costs, settings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["row", "budget", "metric", "value", "low", "high", "guidance", "lr", "steps"]
    writer.writerow([*head, "passes", "seconds", "diverged"])
    for row in rows:
        setting = row.setting or TunedSetting(0.0, None)
        lr = setting.lr or None
        tail = [setting.guidance, lr, row.steps, f"{row.passes:.1f}", f"{row.seconds:.3f}"]
        values = dict(row.values)
        if row.difference is not None:
            values["all_minus_sds"] = row.difference
        for name, value in values.items():
            low, high = value.interval or ("", "")
            numbers = [value.value, low, high]
            shown = [f"{x:.5g}" if isinstance(x, float) else x for x in numbers]
            writer.writerow([row.name, row.budget, name, *shown, *tail, f"{row.diverged:.4g}"])
    return text.getvalue()


def cell_text(value: Value | None) -> str:
    """A value with its interval, as ``.84 [.76, .90]``; empty for None."""
    if value is None:
        return ""
    if value.interval is None:
        return short(value.value)
    return f"{short(value.value)} [{', '.join(map(short, value.interval))}]"


def short(value: float) -> str:
    """Three digits at most, without a leading zero."""
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
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
        equal = f"{board.passes} passes" if budget == "passes" else f"{board.iterations} steps"
        head = ["", *names, "all minus SDS", "guidance, lr", "steps", "passes", "s", "diverged"]
        lines = [f"At {equal} per image (sampling: 50 steps of two passes):", ""]
        lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in own:
            cells = [cell_text(row.values.get(name)) for name in names]
            cells += [cell_text(row.difference), setting_text(row.setting)]
            costs = [str(row.steps), f"{row.passes:.0f}", f"{row.seconds:.1f}"]
            cells += [*costs, short(row.diverged)] if row.setting else [""] * 4
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def setting_text(setting: TunedSetting | None) -> str:
    """Guidance scale and learning rate."""
    if setting is None:
        return ""
    guidance = "-" if setting.guidance is None else f"{setting.guidance:g}"
    return f"{guidance}, {setting.lr:g}" if setting.lr else f"{guidance}, -"
