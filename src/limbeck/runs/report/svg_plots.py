"""Curves as small SVG, whose text and axes take the colour of the page around them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

_TEXT_COLOR = "#123456"  #: stands for the page's text colour until the SVG is written
_ACCENT_COLOR = "#d1495b"
_MAX_POINTS, _MAX_DOTS = (
    800,
    400,
)  #: at most so many points of a curve, and so many separate dots, are drawn
_PALETTE = ("#d1495b", "#3a86c8", "#2a9d6f", "#e09f3e", "#8e6bbf", "#56a3a6", "#b56576", "#7f8c3b")

_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "limbeck", "font.family": "sans-serif", "font.size": 9, "text.color": _TEXT_COLOR,
    "axes.edgecolor": _TEXT_COLOR, "axes.labelcolor": _TEXT_COLOR, "xtick.color": _TEXT_COLOR, "ytick.color": _TEXT_COLOR, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4, "axes.grid": True, "grid.color": _TEXT_COLOR, "grid.alpha": 0.12, "grid.linewidth": 0.5,
}  # fmt: skip

MetricsLine = dict[str, Any]


def line_colors(count: int) -> list[str]:
    """Distinct colours, legible on white and on black."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    return [to_hex(colormaps["turbo"](0.08 + 0.84 * i / (count - 1))) for i in range(count)]


def _thin(values: np.ndarray, most: int = _MAX_POINTS) -> np.ndarray:
    return values[:: max(1, math.ceil(len(values) / most))]


def _series(lines: Sequence[MetricsLine], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where ``name`` was recorded and finite."""
    rows = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running median over a twentieth of the run: one outlier does not bend it."""
    half = max(1, len(values) // 40)
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Logarithmic where the bulk of positive values spans more than a factor of thirty."""
    if len(values) and values.min() > 0:
        low, high = np.quantile(values, [0.02, 0.98])
        if high > 30 * low:
            axes.set_yscale("log")


def _svg(figure: Figure) -> str:
    store = io.StringIO()
    plain = {"Date": None, "Creator": None}
    figure.savefig(store, format="svg", transparent=True, metadata=plain)
    text = store.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S).replace(
        _TEXT_COLOR, "currentColor"
    )
    # the page decides the width; the view box keeps the proportions
    head, rest = text.split(">", 1)
    return re.sub(r' (height|width)="[^"]*"', "", head) + ">" + rest


def _axes(label: str, name: str = "step") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.0, 2.5))
    axes = figure.add_subplot()
    figure.subplots_adjust(
        left=0.14, right=0.965, bottom=0.19, top=0.96
    )  # the same for all, so that panels line up
    axes.set_xlabel(name)
    axes.set_ylabel(label)
    return figure, axes


def _curve(
    axes: Axes, lines: Sequence[MetricsLine], name: str, colour: str, faint: bool = True
) -> np.ndarray:
    steps, values = _series(lines, name)
    if faint:
        axes.plot(_thin(steps), _thin(values), color=colour, alpha=0.25, linewidth=0.7)
    axes.plot(_thin(steps), _thin(_smooth(values)), color=colour, linewidth=1.5)
    return values


def _by_time(lines: Sequence[MetricsLine]) -> str:
    """Gradient norm of single rows against their t; later steps are lighter."""
    pairs = (
        (line["step"], zip(line.get("times", []), line.get("gradients", []), strict=True))
        for line in lines
    )
    rows = [(t, g, step) for step, row in pairs for t, g in row if g]
    if not rows:
        return ""
    t, g, step = _thin(np.array(rows, dtype=float), _MAX_DOTS).T
    figure, axes = _axes("", "t")
    axes.scatter(t, g, c=step, cmap="viridis", s=7, linewidths=0, alpha=0.85)
    axes.set_xlim(0, 1)
    _scale(axes, g)
    return _svg(figure)


def metric_plots(lines: Sequence[MetricsLine]) -> list[tuple[str, str]]:
    """Title and SVG of every curve that ``lines`` of metrics.jsonl can draw."""
    if not lines:
        return []
    known = {"gradient": "Gradient w(t) · direction, rms", "residual": "Residual (direction), rms"}
    sided = {
        "alpha": "Opacity, mean",
        "border": "Opacity at the border",
        "contrast": "Contrast of the picture",
    }
    plain = {
        "step",
        "evaluations",
        "seconds",
        "t",
        "weight",
        "parameters",
        "times",
        "gradients",
        *known,
    }
    more = [
        name for name in dict.fromkeys(key for line in lines for key in line) if name not in plain
    ]
    loss = lambda name: (
        f"{name.replace('_', ' ').capitalize()} (loss)" if name == "critic" else name
    )  # noqa: E731
    titles = known | {name: sided.get(name) or loss(name) for name in more}
    out = []
    with matplotlib.rc_context(_STYLE):
        for name, title in titles.items():
            figure, axes = _axes("")
            _scale(axes, _curve(axes, lines, name, _ACCENT_COLOR))
            out.append((title, _svg(figure)))
        scatter = _by_time(lines)
        if scatter:
            out.insert(2, ("Gradient by t, later steps lighter", scatter))
        figure, axes = _axes("")
        steps, times = _series(lines, "t")
        axes.plot(
            _thin(steps, _MAX_DOTS),
            _thin(times, _MAX_DOTS),
            ".",
            color=_ACCENT_COLOR,
            markersize=2.5,
        )
        axes.set_ylim(0, 1)
        out.append(("Time t, mean of the step", _svg(figure)))
    return out


def comparison_plots(runs: Sequence[tuple[Sequence[MetricsLine], str]]) -> list[tuple[str, str]]:
    """Title and SVG of the curves of several runs, each in its colour; runs without figures are passed over."""
    runs = [(lines, colour) for lines, colour in runs if lines]
    if not runs:
        return []
    out = []
    with matplotlib.rc_context(_STYLE):
        for name, title in {
            "gradient": "Gradient w(t) · direction, rms",
            "residual": "Residual (direction), rms",
        }.items():
            figure, axes = _axes("")
            values = [_curve(axes, lines, name, colour, faint=False) for lines, colour in runs]
            _scale(axes, np.concatenate(values))
            out.append((title, _svg(figure)))
    return out
