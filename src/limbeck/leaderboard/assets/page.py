"""The page of a leaderboard of 3D recipes, and its contact sheets."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limbeck.leaderboard.assets.judgment import SIDE_VIEWS, JudgedStage
from limbeck.leaderboard.assets.protocol import OBJECT_PROMPTS, RowOptions
from limbeck.leaderboard.assets.statistics import AssetRow, StageChange, StageResults
from limbeck.leaderboard.assets.table import (
    COMPARED,
    SHOWN,
    asset_power_sentence,
    format_number,
    heading,
    runs_text,
    shares_text,
)
from limbeck.leaderboard.report.page import fill_page
from limbeck.metrics.estimate import Estimate
from limbeck.runs.images import save_png
from limbeck.runs.report.svg_plots import interval_plot
from limbeck.sweeps.planned_runs import label_of
from limbeck.system.files import slug

_SIDES = ("front", "right", "back", "left")
_CELL, _GAP, _LEFT, _TOP = 64, 2, 70, 30  #: of a contact sheet, in pixels
_MEANINGS = {
    "all": "share of views in which object and color are those of the prompt; higher is better",
    "object": "share of views in which the evaluator sees the object of the prompt; higher is "
    "better",
    "view": "share of views whose side the evaluator names: front, side, back or overhead, of the "
    "six objects whose sides differ; higher is better",
    "janus": "share of views from behind in which it sees a front; lower is better",
    "janus_side": "the same of views from the side; lower is better",
    "mirrored": "share of views from the side in which an object faces the wrong way; lower is "
    "better",
    "fidelity": "share of views in which it sees one of its objects at all; higher is better",
    "color": "share of views with the color of the prompt; higher is better",
    "true_color": "share of the object's pixels within CIE Delta E 15 of the nearest color "
    "that true renders of the prompt show; higher is better",
    "color_overlap": "overlap of the histograms of these colors, which also sees a stain in a "
    "color that the true object has elsewhere; higher is better",
    "r_precision": "share of views at 30 degrees that fit their prompt better than the same prompt "
    "with another object, by the evaluator; higher is better",
    "r_precision_shape": "the same of white renders of the shape alone",
    "diversity": "root-mean-square difference of the same view in two seeds of an object",
    "feature_diversity": "the same in the features of the evaluator, which see shape and color "
    "more than grain",
}


def write_asset_page(
    out: Path,
    baseline: str,
    options: RowOptions,
    rows: Sequence[AssetRow],
    changes: Sequence[StageChange],
    facts: Mapping[str, Any],
) -> Path:
    """Write leaderboard.html.

    Args:
        out: folder of the leaderboard.
        baseline: row that the others are compared with.
        options: options of each row.
        rows: the rows of the table.
        changes: what the stages change.
        facts: ``missing``, ``failed`` and ``reload_seconds``.

    Returns:
        The page.
    """
    computed = [row for row in rows if row.stage.planned]
    keys = {key for row in computed for key in row.stage.results}
    objects = [name for name in OBJECT_PROMPTS if name in {name for name, _ in keys}]
    used = [name for name in _MEANINGS if any(name in row.values for row in rows)]
    content = {
        **facts,
        "baseline": baseline,
        "count": len(options),
        "objects": len(objects),
        "seeds": len({seed for _, seed in keys}),
        "tables": _tables(rows, baseline) if rows else [],
        "forests": _forests(computed),
        "power": asset_power_sentence(rows, baseline),
        "changes": _changes(changes),
        "compared": [(heading(name), _MEANINGS[name]) for name in COMPARED],
        "columns": [(name, f"sheets/{file}") for name, file in sheet_names(computed).items()],
        "by_object": _by_object(rows, objects),
        "names": [row.stage.name for row in rows],
        "gallery": _gallery(computed, objects, out),
        "meanings": {heading(name): _MEANINGS[name] for name in used},
        "options": {name: label_of(own) for name, own in options.items()},
    }
    return fill_page(Path(__file__).with_name("page.html.j2"), content, out)


def _shown(name: str, value: Estimate | None, is_difference: bool = False) -> dict[str, Any]:
    if value is None:
        return {"text": "", "interval": "", "number": "", "differs": False}
    ends = [format_number(name, end).removesuffix(" %") for end in value.interval or ()]
    text = format_number(name, value.value)
    return {
        "text": text.replace(" %", " points") if is_difference else text,
        "interval": f"[{', '.join(ends)}]" if ends else "",
        "number": value.value,
        "differs": is_difference and value.excludes_zero,
    }


def _tables(rows: Sequence[AssetRow], baseline: str) -> list[dict[str, Any]]:
    """The tables of metrics, of differences, and of costs."""
    metrics = [name for name in SHOWN if any(name in row.values for row in rows)]
    tables = [
        {
            "title": "Results",
            "heads": [(heading(name), _MEANINGS[name]) for name in metrics],
            "rows": [(r.stage, [_shown(n, r.values.get(n)) for n in metrics]) for r in rows],
        }
    ]
    compared = [row for row in rows if row.differences]
    if compared:
        names = [name for name in SHOWN if any(name in row.differences for row in compared)]
        tables.append(
            {
                "title": f"Minus {baseline}",
                "heads": [(heading(name), _MEANINGS[name]) for name in names],
                "rows": [
                    (row.stage, [_shown(n, row.differences.get(n), True) for n in names])
                    for row in compared
                ],
            }
        )
    return [*tables, _costs([row for row in rows if row.stage.planned])]


def _costs(rows: Sequence[AssetRow]) -> dict[str, Any]:
    heads = [
        ("steps", "optimization steps of a run, with those of earlier stages"),
        (
            "rows",
            "rows through the network of the model, with those of earlier stages; a network "
            "that a critic trains counts in seconds only",
        ),
        ("CPU s", "CPU seconds of a run, with earlier stages, images and exports"),
        ("runs", "judged runs; one that its own numbers stopped shows nothing in any view"),
    ]
    shown = []
    for row in rows:
        numbers = (row.steps, row.evaluations, row.cpu_seconds)
        cells = [(f"{number:,.0f}", number) for number in numbers]
        cells.append((runs_text(row.stage), len(row.stage.results)))
        plain = {"interval": "", "differs": False}
        shown.append((row.stage, [{"text": a, "number": b, **plain} for a, b in cells]))
    return {"title": "Costs", "heads": heads, "rows": shown}


def _forests(rows: Sequence[AssetRow]) -> list[tuple[str, str]]:
    """Plots of the differences to the baseline, in points, with intervals."""
    plots = []
    for name in COMPARED:
        lines = []
        for row in rows:
            if name in row.differences:
                value = row.differences[name]
                low, high = value.interval or (value.value, value.value)
                ends = (100 * low, 100 * high) if value.interval else None
                lines.append((row.stage.name, 100 * value.value, ends))
        if lines:
            plots.append((f"{heading(name)}, points", interval_plot(lines)))
    return plots


def _changes(changes: Sequence[StageChange]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    return [
        (
            f"{change.row}, stage {change.later}",
            change.earlier,
            [_shown(name, change.differences.get(name), True) for name in COMPARED],
        )
        for change in changes
    ]


def _by_object(rows: Sequence[AssetRow], objects: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [
        (OBJECT_PROMPTS[name], [shares_text(row.objects.get(name, ())) for row in rows])
        for name in objects
    ]


def _gallery(rows: Sequence[AssetRow], objects: Sequence[str], out: Path) -> list[Any]:
    """For each object, its first judged run in every row: image, and links to all of its runs."""
    lines = []
    for name in objects:
        cells = []
        for row in rows:
            runs = {
                seed: result for (own, seed), result in row.stage.results.items() if own == name
            }
            links = [_link(seed, result, out) for seed, result in sorted(runs.items())]
            cells.append({"image": _four_sides(runs), "links": links})
        lines.append((OBJECT_PROMPTS[name], cells))
    return lines


def _link(seed: int, result: JudgedStage, out: Path) -> tuple[str, str]:
    text = "stopped" if result.images is None else f"{100 * result.metrics['object']:.0f} %"
    target = os.path.relpath(result.folder / "report.html", out)
    return f"seed {seed}: {text}", Path(target).as_posix()


def _four_sides(runs: Mapping[int, JudgedStage]) -> str:
    """Data URL of front, right, back and left of the first run that has images; or empty."""
    for seed in sorted(runs):
        images = runs[seed].images
        if images is not None:
            front, right, back, left = images[0, list(SIDE_VIEWS)]
            square = torch.cat([torch.cat([front, right], 2), torch.cat([back, left], 2)], 1)
            return _data_url(square)
    return ""


def _data_url(image: UInt8[Tensor, "3 h w"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sheet_names(rows: Sequence[AssetRow]) -> dict[str, str]:
    """File name of the contact sheet of each stage with results, by the name of the stage.

    Names that differ only in characters that file names leave out are numbered.

    Args:
        rows: rows of the table.
    """
    files: dict[str, str] = {}
    for name in (row.stage.name for row in rows if row.stage.results):
        file, number = slug(name, 80), 1
        while f"{file}.png" in files.values():
            number += 1
            file = f"{slug(name, 80)}-{number}"
        files[name] = f"{file}.png"
    return files


def write_sheets(rows: Sequence[AssetRow], folder: Path) -> None:
    """Write a contact sheet of each stage.

    Args:
        rows: rows of the table.
        folder: folder to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = sheet_names(rows)
    for row in rows:
        if row.stage.results:
            save_png(draw_asset_sheet(row.stage), folder / files[row.stage.name])


def draw_asset_sheet(stage: StageResults) -> Image.Image:
    """An object per line, from front, right, back and left, all seeds beside each other.

    Args:
        stage: a stage with results.
    """
    names = [name for name in OBJECT_PROMPTS if name in {name for name, _ in stage.results}]
    seeds = sorted({seed for _, seed in stage.results})
    step, font = _CELL + _GAP, ImageFont.load_default(10)
    width = _LEFT + (step * len(_SIDES) + 4 * _GAP) * len(seeds)
    out = Image.new("RGB", (width, _TOP + step * len(names)), "white")
    draw = ImageDraw.Draw(out)
    for column, seed in enumerate(seeds):
        left = _LEFT + column * (step * len(_SIDES) + 4 * _GAP)
        draw.text((left, 2), f"seed {seed}", "black", font)
        for i, side in enumerate(_SIDES):
            draw.text((left + i * step, 15), side, "gray", font)
        for line, name in enumerate(names):
            result = stage.results.get((name, seed))
            top = _TOP + line * step
            if result is None or result.images is None:
                draw.text(
                    (left, top + 26), "missing" if result is None else "stopped", "gray", font
                )
                continue
            for i, image in enumerate(result.images[0, list(SIDE_VIEWS)]):
                pixels = image.permute(1, 2, 0).numpy()
                out.paste(Image.fromarray(pixels), (left + i * step, top))
    for line, name in enumerate(names):
        draw.text((2, _TOP + line * step + 26), name, "black", font)
    return out
