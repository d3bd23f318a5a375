"""The table of a leaderboard of edits, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.leaderboard.edits.conduct import EditRow
from limbeck.leaderboard.edits.judgment import judge_edits
from limbeck.leaderboard.edits.pairs import CHANGED, EditPairs
from limbeck.leaderboard.edits.protocol import NO_EDIT, EditLeaderboard, EditSetting
from limbeck.leaderboard.report.markdown import (
    difference_text,
    markdown_table,
    value_text,
)
from limbeck.leaderboard.report.power import power_sentence
from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.world.evaluator import Evaluator

_AUTOENCODER = "autoencoder"
_REFERENCE = "dds"  #: the row that others are compared with
_COMPARED = ("both", "distance", "psnr_outside")
_DECODED_ROWS = 16
_SHARES = ("both", "reached", "kept", *CHANGED)
_HEADINGS = {
    "both": "right",
    "psnr_outside": "PSNR outside, dB",
    "ssim_outside": "SSIM outside",
}
_NOTES = (
    "*Reached*: the evaluator sees the new value; *kept*: it sees everything else as before; "
    "*right*: both. *Distance*: root mean square difference to the true render.\n*Outside*: "
    "compared with the source image, where it need not change. In brackets 95 % intervals, whose "
    "unit is the pair.\n*Minus DDS*: the same pairs and seeds; bold where the interval excludes "
    "zero."
)


@dataclass(frozen=True)
class JudgedEdits:
    """A row of the table.

    Attributes:
        name: the method, ``no edit`` or ``autoencoder``.
        setting: guidance scale and strength; None for what is no method.
        values: metrics by name.
        differences: some metrics minus those of DDS, paired; empty for DDS and without it.
        steps: optimization steps.
        passes: network passes per edit.
        seconds: CPU time per edit.
        diverged: share of pairs whose run was stopped by a value that is not finite.
    """

    name: str
    setting: EditSetting | None
    values: Mapping[str, Estimate]
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    steps: int = 0
    passes: float = 0.0
    seconds: float = 0.0
    diverged: float = 0.0


def judge_edit_rows(
    pairs: EditPairs, rows: Sequence[EditRow], folder: Path, prior: Prior, evaluator: Evaluator
) -> list[JudgedEdits]:
    """Judge all rows, and the source images as they are and through the autoencoder.

    Args:
        pairs: the pairs of the comparison.
        rows: the rows, computed.
        folder: folder of the leaderboard.
        prior: the model.
        evaluator: the world's evaluator.
    """
    sources = pairs.source_images()
    judged = [
        JudgedEdits(NO_EDIT, None, judge_edits(pairs, sources, evaluator)),
        JudgedEdits(_AUTOENCODER, None, judge_edits(pairs, _autoencode(prior, sources), evaluator)),
    ]
    for row in rows:
        results, images = row.load(folder)
        count = len(images)
        judged.append(
            JudgedEdits(
                row.name,
                row.setting,
                judge_edits(pairs, images, evaluator),
                steps=results[0].steps,
                passes=sum(result.passes * len(result.images) for result in results) / count,
                seconds=sum(result.seconds * len(result.images) for result in results) / count,
                diverged=sum(len(result.diverged) for result in results) / len(images),
            )
        )
    return _with_differences(judged)


def _autoencode(prior: Prior, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    with torch.no_grad():
        parts = [
            prior.decode(prior.encode(part.to(prior.device)))
            for part in images.split(_DECODED_ROWS)
        ]
    return torch.cat(parts).float().cpu().clamp(0, 1)


def _with_differences(rows: Sequence[JudgedEdits]) -> list[JudgedEdits]:
    reference = next((row for row in rows if row.name == _REFERENCE), None)
    if reference is None:
        return list(rows)
    out = []
    for row in rows:
        differences = {}
        for name in _COMPARED if row is not reference and row.setting else ():
            own, other = row.values[name].by_unit, reference.values[name].by_unit
            pairs = [a - b for a, b in zip(own, other, strict=True)]
            differences[name] = mean_estimate(pairs, metric_bounds(name), is_difference=True)
        out.append(replace(row, differences=differences))
    return out


def edit_rows_to_csv(rows: Sequence[JudgedEdits]) -> str:
    """One line per row and metric: value, ends of the interval, settings, costs.

    Args:
        rows: the judged rows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["row", "metric", "value", "low", "high", "guidance", "strength", "steps", "passes"]
    writer.writerow([*head, "seconds", "diverged"])
    for row in rows:
        setting = ["", ""] if row.setting is None else [row.setting.guidance, row.setting.strength]
        costs = [row.steps, f"{row.passes:.1f}", f"{row.seconds:.3f}", f"{row.diverged:.4g}"]
        minus = {f"{name}_minus_dds": value for name, value in row.differences.items()}
        for name, value in {**row.values, **minus}.items():
            numbers = [value.value, *(value.interval or ("", ""))]
            shown = [f"{x:.5g}" if isinstance(x, float) else x for x in numbers]
            writer.writerow([row.name, name, *shown, *setting, *costs])
    return text.getvalue()


def edit_rows_to_markdown(board: EditLeaderboard, rows: Sequence[JudgedEdits]) -> str:
    """The tables in Markdown: all edits, then the share of right ones by what is changed.

    Args:
        board: the leaderboard.
        rows: the judged rows.
    """
    fixed = [row for row in rows if row.setting is None]
    methods = sorted(
        (row for row in rows if row.setting is not None), key=lambda row: -row.values["both"].value
    )
    ordered = [*methods, *fixed]
    names = ("both", "reached", "kept", "distance", "psnr_outside", "ssim_outside")
    compared = [f"{_heading(name).partition(',')[0]} minus DDS" for name in _COMPARED]
    head = ["", *map(_heading, names), *compared, "guidance, strength", "steps", "passes", "s"]
    table = [head]
    for row in ordered:
        cells = [value_text(row.values[name], partial(_number, name)) for name in names]
        cells += [
            difference_text(row.differences.get(name), partial(_number, name)) for name in _COMPARED
        ]
        costs = [""] * 4
        if row.setting is not None:
            costs = [f"{row.setting.guidance:g}, {row.setting.strength:g}", str(row.steps)]
            costs += [f"{row.passes:.0f}", f"{row.seconds:.1f}"]
        table.append([row.name, *cells, *costs])
    changed = [name for name in CHANGED if name in rows[0].values]
    by_change = [["right, if changed:", *changed]]
    by_change += [
        [row.name, *(value_text(row.values[n], partial(_number, n)) for n in changed)]
        for row in methods
    ]
    title = (
        f"{board.num_pairs} pairs, {board.seeds} {'edit' if board.seeds == 1 else 'edits'} of "
        f"each, {board.passes} network passes per edit:"
    )
    power = power_sentence([row.differences for row in rows], _COMPARED, "DDS", _difference_words)
    parts = [title, markdown_table(table), markdown_table(by_change), _NOTES, power]
    return "\n\n".join(part for part in parts if part) + "\n"


def _difference_words(name: str, difference: float) -> str:
    return f"{_number(name, difference).replace(' %', ' points')} in {_heading(name)}"


def _heading(name: str) -> str:
    return _HEADINGS.get(name, name)


def _number(name: str, value: float) -> str:
    if name in _SHARES:
        return f"{100 * value:z.0f} %"
    return f"{value:z.1f}" if name == "psnr_outside" else f"{value:z.3f}"
