"""Plots of timesteps and weights by name, to look at before a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from limbeck.config.discovery import choices, find, name_of, unknown_name
from limbeck.diffusion.schedule import (
    CosineSchedule,
    NoiseSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.timesteps.base import RandomTimesteps, ScheduledTimesteps, Timesteps
from limbeck.distillation.weights import Weight
from limbeck.runs.report.svg_plots import ACCENT_COLOR, PALETTE, PLOT_STYLE
from limbeck.system.files import replacing
from limbeck.system.overwriting import refuse_foreign_file
from limbeck.system.random import RowRandom

ScheduleName = Literal["stable-diffusion", "cosine", "rectified-flow"]

_INK_COLOR = "#2b2d33"
_BOUNDS_COLOR = "#3a86c8"
_COLOR_KEYS = (
    "text.color",
    "axes.edgecolor",
    "axes.labelcolor",
    "xtick.color",
    "ytick.color",
    "grid.color",
)
_T_MIN, _T_MAX = 0.02, 0.98  # range of the weights; some are infinite at its ends
_MAX_STEPS = 500  # at most so many steps are plotted
_MAX_DOTS_IN_GRID = 250  # at most so many draws per panel, if there are several panels
_DASHES = ("-", "--", "-.", ":")
_MAX_NORMALIZED_WEIGHT, _MIN_WEIGHT = 4.0, 1e-3  # where the panels of weights are cut off


@dataclass(frozen=True)
class SchedulePlotOptions:
    """Options of a plot of timesteps or weights with their default options.

    Attributes:
        names: ``timesteps`` or ``weights``, then the names to plot. No names: all of them.
        steps: number of steps of the run over which timesteps are plotted.
        schedule: noise schedule: stable-diffusion, cosine or rectified-flow.
        out: figure to write, .png or .svg. Left out: timesteps.png or weights.png.
    """

    names: tuple[str, ...] = ()
    steps: int = 1000
    schedule: ScheduleName = "stable-diffusion"
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.out is not None and self.out.suffix.lower() not in (".png", ".svg"):
            raise ValueError(f"--out must end in .png or .svg, not {self.out}")


def write_plot(options: SchedulePlotOptions) -> Path:
    """Write the figure and return its path.

    Raises:
        ValueError: if a name is unknown or cannot be plotted with its defaults.
    """
    if not options.names:
        raise ValueError(
            "what to plot is missing: limbeck plot timesteps [NAME ...], "
            "or limbeck plot weights [NAME ...]"
        )
    kind, *names = options.names
    bases: dict[str, type] = {"timesteps": Timesteps, "weights": Weight}
    if kind not in bases:
        raise unknown_name("plot", kind, bases)
    components = [default_instance(bases[kind], name) for name in names or choices(bases[kind])]
    schedule, path = noise_schedule(options.schedule), options.out or Path(f"{kind}.png")
    if kind == "timesteps":
        figure = plot_timesteps(components, options.steps, schedule)
    else:
        figure = plot_weights(components, schedule)
    save_figure(figure, path)
    return path


def noise_schedule(name: ScheduleName) -> NoiseSchedule:
    """The noise schedule called ``name``."""
    if name == "stable-diffusion":
        return stable_diffusion_schedule()
    return CosineSchedule() if name == "cosine" else RectifiedFlowSchedule()


def default_instance(base: type, name: str) -> Any:
    """The component called ``name`` with its default options.

    Args:
        base: base class of the component.
        name: name as on the command line.

    Raises:
        ValueError: if an option has no default.
    """
    cls = find(base, name)
    try:
        return cls()
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be plotted, as not all of its options have defaults: {error}"
        ) from error


def _figure_style() -> Any:
    """The style of the report, but with ink for a white page instead of the page's text color."""
    return matplotlib.rc_context(PLOT_STYLE | dict.fromkeys(_COLOR_KEYS, _INK_COLOR))


def _plot_times(
    axes: Axes, timesteps: Timesteps, steps: int, schedule: NoiseSchedule, max_dots: int
) -> None:
    shown = list(range(steps))
    if steps > _MAX_STEPS:
        shown = sorted({i * (steps - 1) // max(_MAX_STEPS - 1, 1) for i in range(_MAX_STEPS)})
    rng = RowRandom.initial(0, 1)
    times = [
        float(schedule.snap(timesteps(step, steps, 1, schedule, rng.at_step(step))))
        for step in shown
    ]
    if isinstance(timesteps, ScheduledTimesteps):
        axes.plot(shown, times, color=ACCENT_COLOR, linewidth=1.8)
        return
    if isinstance(timesteps, RandomTimesteps):
        lower, upper = zip(*(timesteps.bounds(step, steps) for step in shown), strict=True)
        axes.fill_between(shown, lower, upper, color=_BOUNDS_COLOR, alpha=0.14, linewidth=0)
        for bound in (lower, upper):
            axes.plot(shown, bound, color=_BOUNDS_COLOR, linewidth=1)
    every = max(1, len(shown) // max_dots)
    axes.plot(
        shown[::every],
        times[::every],
        ".",
        color=ACCENT_COLOR,
        markersize=3 if len(shown) > 100 else 6,
        markeredgewidth=0,
        alpha=0.85,
        clip_on=False,
    )


def plot_timesteps(components: Sequence[Timesteps], steps: int, schedule: NoiseSchedule) -> Figure:
    """Plot the times of a run, one panel per component.

    Random timesteps are shown by their bounds and one draw per step.

    Args:
        components: the timesteps to plot.
        steps: number of steps of the run.
        schedule: noise schedule.
    """
    columns = min(4, len(components))
    rows = -(-len(components) // columns)
    single = len(components) == 1
    size = (5.2, 3.2) if single else (2.5 * columns, 1.75 * rows + 0.3)
    with _figure_style():
        figure = Figure(figsize=size, layout="constrained")
        panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        for panel, timesteps in zip(panels, components, strict=False):
            max_dots = _MAX_STEPS if single else _MAX_DOTS_IN_GRID
            _plot_times(panel, timesteps, steps, schedule, max_dots)
            panel.set_title(_label(timesteps), fontsize=9, loc="left", fontweight="bold")
            panel.set(xlim=(0, steps), ylim=(0, 1))
        for panel in panels[len(components) :]:
            panel.set_visible(False)
        figure.supxlabel("step", fontsize=9)
        figure.supylabel("time t (1 is noise)", fontsize=9)
    return figure


def _label(component: Any) -> str:
    return name_of(type(component)).rpartition(":")[2]


def plot_weights(components: Sequence[Weight], schedule: NoiseSchedule) -> Figure:
    """Plot weights in two panels: w(t) over its mean, which is what Adam sees, and w(t) itself.

    Args:
        components: the weights to plot.
        schedule: noise schedule.
    """
    t = torch.linspace(_T_MIN, _T_MAX, 481, dtype=torch.float64)
    with _figure_style():
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        normalized, raw = figure.subplots(1, 2)
        for i, weight in enumerate(components):
            w = weight(schedule, t).double()
            style: Any = {
                "color": PALETTE[i % len(PALETTE)],
                "linestyle": _DASHES[(i + i // len(PALETTE)) % len(_DASHES)],
                "linewidth": 1.7,
                "label": _label(weight),
            }
            normalized.plot(t, w / w.mean(), **style)
            raw.plot(t, w, **style)
        normalized.set_ylim(0, min(normalized.get_ylim()[1], _MAX_NORMALIZED_WEIGHT))
        raw.set_yscale("log")
        raw.set_ylim(max(raw.get_ylim()[0], _MIN_WEIGHT), None)
        title = f"w(t) / mean, up to {_MAX_NORMALIZED_WEIGHT:g}"
        normalized.set_title(title, fontsize=9, loc="left", fontweight="bold")
        raw.set_title("w(t)", fontsize=9, loc="left", fontweight="bold")
        for panel in (normalized, raw):
            panel.set(xlim=(0, 1), xlabel="time t (1 is noise)")
        figure.legend(
            *raw.get_legend_handles_labels(),
            loc="outside right center",
            frameon=False,
            handlelength=2.6,
        )
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically; the same figure gives the same bytes.

    Args:
        figure: the figure.
        path: file to write, .png or .svg.

    Raises:
        ValueError: if there is a file that Limbeck did not write.
    """
    refuse_foreign_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, _figure_style():
        if path.suffix.lower() == ".svg":
            # without a date, which would change the bytes
            figure.savefig(part, format="svg", metadata={"Date": None, "Creator": "limbeck"})
        else:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=110)
            # 256 colors suffice for lines and need less than half the bytes
            image = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
            info = PngInfo()
            info.add_text("Software", "limbeck")
            image.save(part, "PNG", optimize=True, pnginfo=info)
