"""Pictures of timesteps and weights, to see what a name does before a run is spent on it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from limbeck.config.discovery import choices, find, name_of, unknown_name
from limbeck.runs.report.svg_plots import _ACCENT_COLOR, _PALETTE, _STYLE
from limbeck.diffusion.schedule import (
    CosineSchedule,
    NoiseSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.timesteps.base import RandomTimesteps, ScheduledTimesteps, Timesteps
from limbeck.distillation.weights import Weight

ScheduleName = Literal["stable", "cosine", "flow"]
DARK = "#2b2d33"
AREA = "#3a86c8"
LOW, HIGH = 0.02, 0.98  #: where weights are drawn; beyond, some have no end
POINTS = 500  #: at most so many steps are drawn
DASHES = ("-", "--", "-.", ":")
STEEP, FAINT = 4.0, 1e-3  #: where the panels of weights are cut off, above and below


@dataclass(frozen=True)
class SchedulePlotOptions:
    """What is drawn, with its default options.

    names: timesteps or weights, then the names of those wanted, all if there are none. steps: of the run over which timesteps are
    drawn. under: noise schedule, of Stable Diffusion (stable), the cosine, or rectified flow (flow). out: picture to write, .png or
    .svg, timesteps.png or weights.png if left out.
    """

    names: tuple[str, ...] = ()
    steps: int = 1000
    schedule: ScheduleName = "stable"
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.out is not None and self.out.suffix.lower() not in (".png", ".svg"):
            raise ValueError(f"--out must end in .png or .svg, not {self.out}")


def write_plot(wanted: SchedulePlotOptions) -> Path:
    """Write the picture and return where it is; ValueError for what cannot be drawn."""
    if not wanted.names:
        raise ValueError(
            "what to draw is missing: limbeck plot timesteps [NAME ...], or limbeck plot weights [NAME ...]"
        )
    kind, *names = wanted.names
    bases: dict[str, type] = {"timesteps": Timesteps, "weights": Weight}
    if kind not in bases:
        raise unknown_name("picture", kind, bases)
    chosen = [default_instance(bases[kind], name) for name in names or choices(bases[kind])]
    schedule, out = noise_schedule(wanted.schedule), wanted.out or Path(f"{kind}.png")
    save_figure(
        plot_timesteps(chosen, wanted.steps, schedule)
        if kind == "timesteps"
        else plot_weights(chosen, schedule),
        out,
    )
    return out


def noise_schedule(under: ScheduleName) -> NoiseSchedule:
    """The noise schedule of a name: Stable Diffusion's table, the cosine, or rectified flow's straight paths."""
    return {
        "stable": stable_diffusion_schedule,
        "cosine": CosineSchedule,
        "flow": RectifiedFlowSchedule,
    }[under]()


def default_instance(base: type, name: str) -> Any:
    """The component called ``name`` with its defaults; ValueError where it has none."""
    cls = find(base, name)
    try:
        return cls()
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be drawn, as not all of its options have defaults: {error}"
        ) from error


def _ink() -> Any:
    # the report's style takes the colour of its page; a picture of its own has a white one
    names = (
        "text.color",
        "axes.edgecolor",
        "axes.labelcolor",
        "xtick.color",
        "ytick.color",
        "grid.color",
    )
    return matplotlib.rc_context(_STYLE | dict.fromkeys(names, DARK))


def _times(axes: Axes, how: Timesteps, steps: int, schedule: NoiseSchedule, dots: int) -> None:
    at = (
        sorted({i * (steps - 1) // max(POINTS - 1, 1) for i in range(POINTS)})
        if steps > POINTS
        else list(range(steps))
    )
    rng = torch.Generator().manual_seed(0)
    drawn = [float(schedule.snap(how(step, steps, 1, schedule, rng))) for step in at]
    if isinstance(how, ScheduledTimesteps):
        axes.plot(at, drawn, color=_ACCENT_COLOR, linewidth=1.8)
        return
    if isinstance(how, RandomTimesteps):
        low, high = zip(*(how.bounds(step, steps) for step in at), strict=True)
        axes.fill_between(at, low, high, color=AREA, alpha=0.14, linewidth=0)
        for edge in (low, high):
            axes.plot(at, edge, color=AREA, linewidth=1)
    every = max(1, len(at) // dots)
    size = 3 if len(at) > 100 else 6
    axes.plot(
        at[::every],
        drawn[::every],
        ".",
        color=_ACCENT_COLOR,
        markersize=size,
        markeredgewidth=0,
        alpha=0.85,
        clip_on=False,
    )


def plot_timesteps(chosen: Sequence[Timesteps], steps: int, schedule: NoiseSchedule) -> Figure:
    """A panel each: the time over the run; where it is drawn, its bounds and one draw per step."""
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    size = (5.2, 3.2) if len(chosen) == 1 else (2.5 * columns, 1.75 * rows + 0.3)
    with _ink():
        figure = Figure(figsize=size, layout="constrained")
        panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        for panel, how in zip(panels, chosen, strict=False):
            _times(panel, how, steps, schedule, POINTS if len(chosen) == 1 else 250)
            panel.set_title(_label(how), fontsize=9, loc="left", fontweight="bold")
            panel.set(xlim=(0, steps), ylim=(0, 1))
        for panel in panels[len(chosen) :]:
            panel.set_visible(False)
        figure.supxlabel("step", fontsize=9)
        figure.supylabel("time t (1 is noise)", fontsize=9)
    return figure


def _label(how: Any) -> str:
    return name_of(type(how)).rpartition(":")[2]


def plot_weights(chosen: Sequence[Weight], schedule: NoiseSchedule) -> Figure:
    """Two panels: w(t) over its mean, which is what Adam sees, and w(t) itself."""
    t = torch.linspace(LOW, HIGH, 481, dtype=torch.float64)
    with _ink():
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        shape, raw = figure.subplots(1, 2)
        for i, how in enumerate(chosen):
            w = how(schedule, t).double()
            dash = DASHES[(i + i // len(_PALETTE)) % len(DASHES)]
            style: Any = {
                "color": _PALETTE[i % len(_PALETTE)],
                "linestyle": dash,
                "linewidth": 1.7,
                "label": _label(how),
            }
            shape.plot(t, w / w.mean(), **style)
            raw.plot(t, w, **style)
        shape.set_ylim(0, min(shape.get_ylim()[1], STEEP))
        raw.set_yscale("log")
        raw.set_ylim(max(raw.get_ylim()[0], FAINT), None)
        shape.set_title(f"w(t) / mean, up to {STEEP:g}", fontsize=9, loc="left", fontweight="bold")
        raw.set_title("w(t)", fontsize=9, loc="left", fontweight="bold")
        for panel in (shape, raw):
            panel.set(xlim=(0, 1), xlabel="time t (1 is noise)")
        figure.legend(
            *raw.get_legend_handles_labels(),
            loc="outside right center",
            frameon=False,
            handlelength=2.6,
        )
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG or an SVG, by the suffix, in one move; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    kind = path.suffix.lower().removeprefix(".")
    with _ink():
        if kind == "svg":
            figure.savefig(
                part, format="svg", metadata={"Date": None}
            )  # a date would make every file another one
        else:
            store = io.BytesIO()
            figure.savefig(store, format="png", dpi=110)
            # 256 colours are plenty for lines, and less than half the bytes
            Image.open(store).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
                part, "PNG", optimize=True
            )
    os.replace(part, path)
