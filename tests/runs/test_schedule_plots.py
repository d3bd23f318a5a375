"""Plots of timesteps and weights: every component can be plotted, and the curves are its values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.diffusion.schedule import stable_diffusion_schedule
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.deterministic import LinearTimesteps
from limbeck.distillation.timesteps.random import ISMTimesteps, TwoStageTimesteps
from limbeck.distillation.weights import BAOABWeight, LambdaWeight, Weight
from limbeck.runs.report import schedule_plots
from limbeck.runs.report.schedule_plots import (
    SchedulePlotOptions,
    plot_timesteps,
    plot_weights,
    write_plot,
)

SD = stable_diffusion_schedule()
OWN_TIMESTEPS = """
from dataclasses import dataclass
import torch
from limbeck.distillation.timesteps.base import Timesteps

@dataclass(frozen=True)
class Half(Timesteps):
    t: float{default}

    def __call__(self, step, steps, rows, schedule, rng):
        return torch.full((rows,), self.t)
"""


@pytest.mark.parametrize("schedule", ["stable-diffusion", "cosine", "rectified-flow"])
@pytest.mark.parametrize(("kind", "base"), [("timesteps", Timesteps), ("weights", Weight)])
def test_without_names_all_components_are_plotted(
    kind: str, base: type, schedule, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "all.svg"
    path = write_plot(SchedulePlotOptions((kind,), steps=9, schedule=schedule, out=out))
    text = path.read_text()
    assert all(f">{name}<" in text for name in choices(base))
    assert [p.name for p in path.parent.iterdir()] == ["all.svg"]


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_the_same_plot_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, second = (
        write_plot(SchedulePlotOptions(("timesteps", "ism"), steps=30, out=tmp_path / f / name))
        for f in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


def test_the_default_file_is_named_after_the_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "weights", "min-snr", "uniform"]) == 0
    assert capsys.readouterr().out.strip() == "weights.png"
    with Image.open(tmp_path / "weights.png") as image:
        assert image.format == "PNG" and image.width > 600


@pytest.mark.parametrize("steps", [1, 2, 700, 5000])
def test_curves_are_the_times_and_bounds_of_the_timesteps(steps: int) -> None:
    (line,) = plot_timesteps([LinearTimesteps()], steps, SD).axes[0].lines
    x, y = line.get_data()
    assert x[0] == 0 and x[-1] == steps - 1 and len(x) <= schedule_plots._MAX_STEPS
    expected = [LinearTimesteps().time(int(step), steps, SD) for step in x]
    differences = [abs(a - b) for a, b in zip(y, expected, strict=True)]
    assert max(differences) <= 0.0005 + 1e-6  # rounded to one of 1000 timesteps
    lower, upper, dots = plot_timesteps([ISMTimesteps()], steps, SD).axes[0].lines
    assert list(upper.get_ydata()) == [
        ISMTimesteps().bounds(int(step), steps)[1] for step in upper.get_xdata()
    ]
    assert len(dots.get_xdata()) >= 1 and set(lower.get_ydata()) == {0.02}


def test_weights_are_plotted_over_their_mean_and_unchanged() -> None:
    normalized, raw = plot_weights([LambdaWeight(), BAOABWeight()], SD).axes
    for line in normalized.lines:
        y = line.get_ydata()
        assert abs(float(sum(y)) / len(y) - 1) < 1e-9
    t, y = raw.lines[1].get_data()
    assert float(y[-1]) == float(BAOABWeight()(SD, torch.tensor(t[-1:]))[0])


def test_own_classes_are_plotted_if_all_options_have_defaults(tmp_path: Path) -> None:
    file = tmp_path / "half.py"
    names = ("timesteps", f"{file}:Half")
    file.write_text(OWN_TIMESTEPS.format(default=" = 0.5"))
    path = write_plot(SchedulePlotOptions(names, out=tmp_path / "a.svg"))
    assert ">Half<" in path.read_text()
    file.write_text(OWN_TIMESTEPS.format(default=""))
    with pytest.raises(ValueError, match="not all of its options have defaults"):
        write_plot(SchedulePlotOptions(names, out=tmp_path / "b.svg"))
    assert not (tmp_path / "b.svg").exists()


def test_unused_panels_are_hidden() -> None:
    figure = plot_timesteps([TwoStageTimesteps()] * 5, 10, SD)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False] * 3
