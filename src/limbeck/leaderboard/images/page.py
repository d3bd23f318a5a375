"""The page of a leaderboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from limbeck.leaderboard.execution.image_results import CellResult
from limbeck.leaderboard.images.conduct import RowCells
from limbeck.leaderboard.images.protocol import Leaderboard, candidates
from limbeck.leaderboard.images.table import image_power_sentence, ordered, short
from limbeck.leaderboard.report.judged_row import JudgedRow, setting_text
from limbeck.leaderboard.report.page import fill_page
from limbeck.metrics.estimate import Estimate
from limbeck.runs.report.svg_plots import curve_plot, interval_plot

_SHOWN_PROMPTS = 8
_SNR = ("snr_0.1", "snr_0.3", "snr_0.5", "snr_0.7", "snr_0.9")
_NAMES = {
    "r_precision": "R-Precision",
    "frechet": "Frechet",
    "kid": "KID",
    "vendi": "Vendi",
    "high_frequency": "high frequencies",
    "memory_mib": "MiB",
    **{name: name.replace("snr_", "t = ") for name in _SNR},
}
#: tables of one budget: title and metrics; color, pattern and background are in the file only
_GROUPS = (
    ("Agreement with the prompt", ("all", "r_precision", "fidelity", "object", "view")),
    (
        "Distance to true renders",
        ("frechet", "kid", "precision", "recall", "density", "coverage"),
    ),
    ("Diversity and looks", ("diversity", "vendi", "saturation", "high_frequency")),
    ("Signal-to-noise ratio of the gradient by t", _SNR),
)
_FOREST = ("all", "r_precision", "kid", "coverage", "vendi", "saturation")  #: plotted differences
_MEANINGS = {
    "all": "share of images in which every attribute of the prompt is right; higher is better",
    "object": "share of images with the right object; higher is better",
    "r_precision": "share of images that fit their own caption better than every other caption of "
    "the comparison, by the evaluator's probabilities of the attributes that a caption names (not "
    "CLIP's); higher is better",
    "view": "share seen from the right side, of objects whose sides differ; higher is better",
    "fidelity": "share in which the evaluator sees one of its objects at all; higher is better",
    "frechet": "Frechet distance of the evaluator's features to as many renders; lower is better. "
    "It grows with fewer images: compare with the row of renders. Left out below 161 images",
    "kid": "unbiased kernel distance of the same features, not times 1000; lower is better, 0 for "
    "equal laws",
    "precision": "share of images within a ball around a render, whose radius is the distance to "
    "its fifth neighbor; below 1 for true renders too: compare with their row",
    "recall": "the same with images and renders exchanged: share of renders near an image",
    "density": "mean number of such balls around an image, divided by 5; about 1 for renders",
    "coverage": "share of renders whose ball holds an image; about .97 for renders",
    "diversity": "root-mean-square difference of two images of a prompt, out of eight",
    "vendi": "effective number of different images among eight of a prompt, 1 to 8",
    "saturation": "mean saturation; high guidance raises it above that of renders",
    "high_frequency": "share of the energy above half the Nyquist frequency; noise raises it",
    "diverged": "share of prompts whose run was stopped by a value that is not finite",
    **dict.fromkeys(
        _SNR,
        "signal-to-noise ratio of single gradients at one t: norm of their mean, divided by the "
        "root of the trace of their covariance; bias-corrected, root mean square over prompts. At "
        "the method's own latents after a quarter of its steps, a critic as trained by then. Where "
        "an image is right already, the mean gradient is near zero, and so is the ratio. Infinite: "
        "at a given t the gradient is not random, as that of ISM",
    ),
    "memory_mib": "MiB by which the peak memory of a process with a run of two images exceeds the "
    "loaded model, a critic included; one process, and another may differ by 1 MiB",
}


def _shown(value: Estimate | None, is_difference: bool = False) -> dict[str, Any]:
    if value is None:
        return {"text": "", "interval": "", "number": "", "differs": False}
    ends = value.interval
    return {
        "text": short(value.value),
        "interval": f"[{', '.join(map(short, ends))}]" if ends else "",
        "number": min(value.value, 1e9),  # JavaScript writes infinity otherwise
        "differs": is_difference and value.excludes_zero,
    }


def _tables(rows: Sequence[JudgedRow]) -> list[dict[str, Any]]:
    """The tables of one budget by group, the last one of costs."""
    tables = []
    for title, metrics in _GROUPS:
        columns = [name for name in metrics if any(name in row.values for row in rows)]
        if not columns:
            continue
        first = columns[0]
        with_difference = any(first in row.differences for row in rows)
        shown = []
        for row in rows:
            if not any(name in row.values for name in columns):
                continue
            cells = [_shown(row.values.get(name)) for name in columns]
            if with_difference:
                cells.insert(1, _shown(row.differences.get(first), is_difference=True))
            shown.append((row.name, cells))
        heads = [(_NAMES.get(name, name), _MEANINGS[name]) for name in columns]
        if with_difference:
            heads.insert(1, ("minus SDS", f"{heads[0][0]} minus that of SDS, paired by prompt"))
        tables.append({"title": title, "heads": heads, "rows": shown})
    return [*tables, _costs(rows)]


def _costs(rows: Sequence[JudgedRow]) -> dict[str, Any]:
    heads = [("guidance, lr", "what was tuned"), ("steps", "optimization steps")]
    heads += [("passes", "network passes per image"), ("s", "CPU seconds per image")]
    last = [name for name in ("diverged", "memory_mib") if any(name in r.values for r in rows)]
    heads += [(_NAMES.get(name, name), _MEANINGS[name]) for name in last]
    shown = []
    for row in rows:
        if row.setting is None:
            continue
        texts = (str(row.steps), f"{row.passes:.0f}", f"{row.seconds:.1f}")
        numbers = (row.steps, row.passes, row.seconds)
        plain = {"interval": "", "differs": False}
        cells = [{"text": setting_text(row.setting), "number": row.setting.guidance or 0, **plain}]
        cells += [{"text": a, "number": b, **plain} for a, b in zip(texts, numbers, strict=True)]
        cells += [_shown(row.values.get(name)) for name in last]
        shown.append((row.name, cells))
    return {"title": "Settings and costs", "heads": heads, "rows": shown}


def _forests(rows: Sequence[JudgedRow]) -> list[tuple[str, str]]:
    """Plots of the differences to SDS of the main metrics, with intervals."""
    plots = []
    for name in _FOREST:
        found = [(row.name, row.differences[name]) for row in rows if name in row.differences]
        if found:
            found.sort(key=lambda item: -item[1].value)
            lines = [(label, value.value, value.interval) for label, value in found]
            plots.append((_NAMES.get(name, name), interval_plot(lines)))
    return plots


def _curves(rows: Sequence[JudgedRow]) -> list[tuple[str, str]]:
    """A plot per method of its quality against passes, that of SDS behind it."""
    curves = {
        row.name: [(p.passes, p.objective.value, p.objective.interval) for p in row.curve]
        for row in rows
        if row.curve
    }
    xlim = [f([x for own in curves.values() for x, _, _ in own], default=1) for f in (min, max)]
    sds = curves.get("sds", [])
    return [
        (name, curve_plot(own, [] if name == "sds" else sds, (xlim[0], xlim[1])))
        for name, own in curves.items()
    ]


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


@dataclass(frozen=True)
class Missing:
    """What a running leaderboard does not have yet.

    Attributes:
        rows: rows without all of their images.
        measurements: other rows without gradients, memory or curve.
    """

    rows: int = 0
    measurements: int = 0


def write_leaderboard_page(
    board: Leaderboard,
    rows: Sequence[RowCells],
    judged: Sequence[JudgedRow],
    out: Path,
    missing: Missing = Missing(),
) -> Path:
    """Write leaderboard.html.

    Args:
        board: the leaderboard.
        rows: its rows, computed.
        judged: its rows, judged.
        out: its folder.
        missing: what is not computed yet.
    """
    sections = []
    for budget, title in (
        ("passes", f"{board.passes} network passes"),
        ("iterations", f"{board.iterations} steps"),
    ):
        own = ordered(judged, budget)  # type: ignore[arg-type]
        if not own:
            continue
        section = {"title": title, "tables": _tables(own), "forests": _forests(own)}
        sections.append({**section, "power": image_power_sentence(own)})
    used = [name for name in _MEANINGS if any(name in row.values for row in judged)]
    by_name = {row.name: row for row in rows if row.budget == "passes"}
    order = [row.name for row in ordered(judged, "passes")]
    content: dict[str, Any] = {
        "board": board,
        "count": len(by_name),
        "candidates": len(candidates(board, board.rows[0])),
        "sections": sections,
        "curves": _curves(ordered(judged, "passes")),
        "missing": missing,
        "meanings": {
            "t = ..." if name in _SNR else _NAMES.get(name, name): _MEANINGS[name] for name in used
        },
        "prompts": rows[0].cells[0].prompts[:_SHOWN_PROMPTS],
        "gallery": _gallery(by_name, order, out),
    }
    return fill_page(Path(__file__).with_name("page.html.j2"), content, out)
