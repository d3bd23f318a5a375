"""The page of a leaderboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from limbeck.leaderboard.cells import CellResult
from limbeck.leaderboard.conduct import RowCells
from limbeck.leaderboard.judgment import Value
from limbeck.leaderboard.protocol import Leaderboard, candidates
from limbeck.leaderboard.table import METRICS, JudgedRow, ordered, setting_text, short
from limbeck.runs.report.pages import render_page, save_page

_SHOWN_PROMPTS = 8
_IN_FILE_ONLY = ("color", "pattern", "background")  #: too many columns for a page
_NAMES = {
    "frechet": "Frechet",
    "kid": "KID",
    "vendi": "Vendi",
    "high_frequency": "high frequencies",
}
_MEANINGS = {
    "all": "share of images in which every attribute of the prompt is right; higher is better",
    "object": "share of images with the right object; higher is better",
    "color": "share with the right color; higher is better",
    "pattern": "share with the right pattern; higher is better",
    "background": "share with the right background; higher is better",
    "view": "share seen from the right side, of objects whose sides differ; higher is better",
    "fidelity": "share in which the evaluator sees one of its objects at all; higher is better",
    "frechet": "Frechet distance of the evaluator's features to as many renders; lower is better. "
    "It grows with fewer images: compare with the row of renders. Left out below 161 images",
    "kid": "unbiased kernel distance of the same features, not times 1000; lower is better, 0 for "
    "equal laws",
    "diversity": "root-mean-square difference of two images of a prompt, out of eight",
    "vendi": "effective number of different images among eight of a prompt, 1 to 8",
    "saturation": "mean saturation; high guidance raises it above that of renders",
    "high_frequency": "share of the energy above half the Nyquist frequency; noise raises it",
}


def _shown(value: Value | None) -> dict[str, str]:
    if value is None:
        return {"text": "", "interval": ""}
    interval = ", ".join(map(short, value.interval or ()))
    return {"text": short(value.value), "interval": f"[{interval}]" if interval else ""}


def _row_content(row: JudgedRow, columns: Sequence[str]) -> dict[str, Any]:
    difference, costs = row.difference, [""] * 5
    if row.setting is not None:
        costs = [setting_text(row.setting), str(row.steps), f"{row.passes:.0f}"]
        costs += [f"{row.seconds:.1f}", short(row.diverged)]
    differs = False
    if difference is not None and difference.interval is not None:
        low, high = difference.interval
        differs = low > 0 or high < 0
    return {
        "name": row.name,
        "cells": [_shown(row.values.get(name)) for name in columns],
        "difference": _shown(difference),
        "differs": differs,
        "costs": costs,
    }


def _data_url(image: UInt8[Tensor, "3 h w"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _gallery(rows: Mapping[str, RowCells], names: Sequence[str], out: Path) -> list[Any]:
    gallery = []
    for name in names:
        if name not in rows:
            continue
        cell = rows[name].cells[0]
        images = CellResult.load(out / cell.path).images
        first = images[:: cell.images][:_SHOWN_PROMPTS]
        gallery.append((name, [_data_url(image) for image in first]))
    return gallery


def write_leaderboard_page(
    board: Leaderboard, rows: Sequence[RowCells], judged: Sequence[JudgedRow], out: Path
) -> Path:
    """Write leaderboard.html.

    Args:
        board: the leaderboard.
        rows: its rows, computed.
        judged: its rows, judged.
        out: its folder.
    """
    sections = []
    for budget, title in (
        ("passes", f"{board.passes} network passes"),
        ("iterations", f"{board.iterations} steps"),
    ):
        own = ordered(judged, budget)  # type: ignore[arg-type]
        if not own:
            continue
        shown_metrics = [name for name in METRICS if name not in _IN_FILE_ONLY]
        columns = [name for name in shown_metrics if any(name in row.values for row in own)]
        shown = [_row_content(row, columns) for row in own]
        sections.append({"title": title, "columns": columns, "rows": shown})
    used = [name for name in METRICS if any(name in s["columns"] for s in sections)]
    by_name = {row.name: row for row in rows if row.budget == "passes"}
    order = [row.name for row in ordered(judged, "passes")]
    content: dict[str, Any] = {
        "board": board,
        "count": len(by_name),
        "candidates": len(candidates(board, board.rows[0])),
        "sections": sections,
        "names": {name: _NAMES.get(name, name) for name in METRICS},
        "meanings": {name: _MEANINGS[name] for name in used},
        "prompts": rows[0].cells[0].prompts[:_SHOWN_PROMPTS],
        "gallery": _gallery(by_name, order, out),
    }
    page = render_page("leaderboard.html.j2", content, Path(__file__).parent)
    return save_page(out / "leaderboard.html", page)
