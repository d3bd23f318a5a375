"""Plots as small SVG whose text and axes take the text color of the page."""

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

_TEXT_COLOR = "#123456"  #: placeholder, replaced by currentColor in the SVG
ACCENT_COLOR = "#d1495b"
_MAX_POINTS, _MAX_DOTS = 800, 400  #: at most so many points per curve and per scatter plot
PALETTE = (
    "#d1495b",
    "#3a86c8",
    "#2a9d6f",
    "#e09f3e",
    "#8e6bbf",
    "#56a3a6",
    "#b56576",
    "#7f8c3b",
)

_PASSES_TICKS = tuple(base * 10**power for power in range(6) for base in (1, 3))

PLOT_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "limbeck",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _TEXT_COLOR,
    "axes.edgecolor": _TEXT_COLOR,
    "axes.labelcolor": _TEXT_COLOR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "xtick.color": _TEXT_COLOR,
    "xtick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.color": _TEXT_COLOR,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "grid.color": _TEXT_COLOR,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.5,
}

_GRADIENT_TITLES = {
    "gradient": "Gradient w(t) · direction, RMS",
    "residual": "Residual (direction), RMS",
}
_OPACITY_TITLES = {
    "alpha": "Opacity, mean",
    "border": "Opacity at the image border",
    "contrast": "Image contrast",
}
_LOSS_TITLES = {
    "critic": "Critic (loss)",
    "opacity": "Opacity (loss)",
    "orientation": "Orientation of normals (loss)",
    "entropy": "Entropy of opacities (loss)",
    "tv": "Total variation (loss)",
    "normal_smooth": "Smoothness of normals (loss)",
    "normal_consistency": "Consistency of normals (loss)",
    "laplacian": "Laplacian (loss)",
    "scale": "Scale of Gaussians (loss)",
    "smoothness": "Smoothness (loss)",
}
_NOT_PLOTTED = {
    "step",
    "evaluations",
    "seconds",
    "t",
    "weight",
    "grad_norm",
    "row_t",
    "row_gradient",
}

MetricsLine = dict[str, Any]


def line_colors(count: int) -> list[str]:
    """Distinct hex colors that are legible on white and on black."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    return [to_hex(colormaps["turbo"](0.08 + 0.84 * i / (count - 1))) for i in range(count)]


def _thin(values: np.ndarray, max_points: int = _MAX_POINTS) -> np.ndarray:
    return values[:: max(1, math.ceil(len(values) / max_points))]


def _series(lines: Sequence[MetricsLine], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the lines in which ``name`` is recorded and finite."""
    rows = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running median over a twentieth of the run, which ignores single outliers, thinned.

    Only at the points that are kept: at all of them it would cost the square of the steps.
    """
    half = max(1, len(values) // 40)
    kept = _thin(np.arange(len(values)))
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in kept])


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Use a log scale if the bulk of positive values spans more than a factor of 30.

    On a linear scale a common power of ten would stand above the axes, where there is no room.
    """
    if len(values) and values.min() > 0:
        low, high = np.quantile(values, [0.02, 0.98])
        if high > 30 * low:
            axes.set_yscale("log")
            return
    axes.ticklabel_format(axis="y", useOffset=False)
    if len(values) and not 1e-3 < np.abs(values).max() < 1e5:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = text.replace(_TEXT_COLOR, "currentColor")
    # the page sets the width; the view box keeps the aspect ratio
    head, rest = text.split(">", 1)
    return re.sub(r' (height|width)="[^"]*"', "", head) + ">" + rest


def _axes(xlabel: str = "step") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.0, 2.5))
    axes = figure.add_subplot()
    # the same margins everywhere, so that panels line up
    figure.subplots_adjust(left=0.14, right=0.965, bottom=0.19, top=0.96)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("")
    return figure, axes


def _curve(
    axes: Axes, lines: Sequence[MetricsLine], name: str, color: str, faint: bool = True
) -> np.ndarray:
    """Plot a running median, with all values faintly behind it; returns the values."""
    steps, values = _series(lines, name)
    if faint:
        axes.plot(_thin(steps), _thin(values), color=color, alpha=0.25, linewidth=0.7)
    axes.plot(_thin(steps), _smooth(values), color=color, linewidth=1.5)
    return values


def _gradient_by_t(lines: Sequence[MetricsLine]) -> str:
    """Gradient norm of single rows over their t, later steps lighter; empty without data."""
    rows = [
        (t, gradient, line["step"])
        for line in lines
        for t, gradient in zip(line.get("row_t", []), line.get("row_gradient", []), strict=True)
        if gradient
    ]
    if not rows:
        return ""
    t, gradient, step = _thin(np.array(rows, dtype=float), _MAX_DOTS).T
    figure, axes = _axes("t")
    axes.scatter(t, gradient, c=step, cmap="viridis", s=7, linewidths=0, alpha=0.85)
    axes.set_xlim(0, 1)
    _scale(axes, gradient)
    return _svg(figure)


def _time_plot(lines: Sequence[MetricsLine]) -> str:
    figure, axes = _axes()
    steps, times = _series(lines, "t")
    dots = _thin(steps, _MAX_DOTS), _thin(times, _MAX_DOTS)
    axes.plot(*dots, ".", color=ACCENT_COLOR, markersize=2.5)
    axes.set_ylim(0, 1)
    return _svg(figure)


def metric_title(name: str) -> str:
    """Label of a metric."""
    return (_OPACITY_TITLES | _LOSS_TITLES).get(name, name.replace("_", " "))


def last_values(lines: Sequence[MetricsLine]) -> dict[str, float]:
    """The last value of every metric that is recorded as a finite number.

    Args:
        lines: lines of metrics.jsonl.
    """
    counts = ("step", "evaluations", "seconds")
    return {
        name: float(value)
        for line in lines
        for name, value in line.items()
        if name not in counts and isinstance(value, int | float) and math.isfinite(value)
    }


def metric_plots(lines: Sequence[MetricsLine]) -> list[tuple[str, str]]:
    """Title and SVG of every metric in the lines of metrics.jsonl; empty without lines."""
    if not lines:
        return []
    names = dict.fromkeys(name for line in lines for name in line)
    others = [name for name in names if name not in _NOT_PLOTTED | _GRADIENT_TITLES.keys()]
    titles = _GRADIENT_TITLES | {name: metric_title(name) for name in others}
    plots = []
    with matplotlib.rc_context(PLOT_STYLE):
        for name, title in titles.items():
            figure, axes = _axes()
            _scale(axes, _curve(axes, lines, name, ACCENT_COLOR))
            plots.append((title, _svg(figure)))
        if scatter := _gradient_by_t(lines):
            plots.insert(2, ("Gradient over t, later steps lighter", scatter))
        plots.append(("Time t, mean of the step", _time_plot(lines)))
    return plots


def comparison_plots(runs: Sequence[tuple[Sequence[MetricsLine], str]]) -> list[tuple[str, str]]:
    """Title and SVG of the gradient curves of several runs.

    Args:
        runs: lines of metrics.jsonl and color of each run; runs without lines are skipped.
    """
    runs = [(lines, color) for lines, color in runs if lines]
    if not runs:
        return []
    plots = []
    with matplotlib.rc_context(PLOT_STYLE):
        for name, title in _GRADIENT_TITLES.items():
            figure, axes = _axes()
            values = [_curve(axes, lines, name, color, faint=False) for lines, color in runs]
            _scale(axes, np.concatenate(values))
            plots.append((title, _svg(figure)))
    return plots


def interval_plot(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]],
    gap_after: int = 0,
    zero: bool = True,
) -> str:
    """SVG of values with their intervals, one below the other.

    Args:
        rows: label, value and interval of each row, from the top.
        gap_after: number of rows above a thin line; 0 for none.
        zero: for differences: draw a line at zero, and rows whose interval excludes it in the
            accent color, the others faint. Else all rows are in the accent color.
    """
    longest = max(len(label) for label, _, _ in rows)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(4.6, 0.2 * len(rows) + 0.45))
        axes = figure.add_subplot()
        left, height = min(0.08 + 0.0128 * longest, 0.6), figure.get_figheight()
        figure.subplots_adjust(left=left, right=0.97, bottom=0.32 / height, top=1 - 0.05 / height)
        if zero:
            axes.axvline(0, color=_TEXT_COLOR, linewidth=0.8)
        for place, (_, value, ends) in enumerate(rows):
            is_clear = not zero or (ends is not None and (ends[0] > 0 or ends[1] < 0))
            color, alpha = (ACCENT_COLOR, 1.0) if is_clear else (_TEXT_COLOR, 0.45)
            if ends is not None:
                axes.plot(ends, (place, place), color=color, alpha=alpha, linewidth=1.6)
            axes.plot(value, place, "o", color=color, alpha=alpha, markersize=4)
        if 0 < gap_after < len(rows):
            axes.axhline(gap_after - 0.5, color=_TEXT_COLOR, linewidth=0.4, linestyle=":")
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.04)
        axes.locator_params(axis="x", nbins=5)
        return _svg(figure)


CurveLine = Sequence[tuple[float, float, tuple[float, float] | None]]


def curve_plot(line: CurveLine, reference: CurveLine, xlim: tuple[float, float]) -> str:
    """SVG of a share against network passes, with the band of its intervals.

    Args:
        line: passes, value and interval of each point.
        reference: another line, in gray behind it; may be empty.
        xlim: fewest and most passes of all plots that stand together.
    """
    with matplotlib.rc_context(PLOT_STYLE):
        figure, axes = _axes("network passes per image")
        for points, color, alpha in ((reference, _TEXT_COLOR, 0.4), (line, ACCENT_COLOR, 1.0)):
            passes = [x for x, _, _ in points]
            axes.plot(passes, [y for _, y, _ in points], "o-", color=color, alpha=alpha, ms=3.5)
            if all(ends is not None for _, _, ends in points):
                ends = [ends or (y, y) for _, y, ends in points]
                low, high = [a for a, _ in ends], [b for _, b in ends]
                axes.fill_between(passes, low, high, color=color, alpha=0.15 * alpha, linewidth=0)
        axes.set_xscale("log")
        ticks = [x for x in _PASSES_TICKS if xlim[0] <= x <= xlim[1]]
        axes.set_xticks(ticks, [f"{x:,}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlim(xlim[0] / 1.15, xlim[1] * 1.15)
        axes.set_ylim(-0.02, 1.02)
        return _svg(figure)
