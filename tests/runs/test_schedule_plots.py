"""Pictures of timesteps and weights: every name can be drawn, and what is drawn is what the component says."""

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
from limbeck.runs.report import schedule_plots as plot
from limbeck.runs.report.schedule_plots import SchedulePlotOptions, write_plot

OWN = """
from dataclasses import dataclass
import torch
from limbeck.distillation.timesteps.base import Timesteps

@dataclass(frozen=True)
class Half(Timesteps):
    at: float{default}

    def __call__(self, step, steps, rows, schedule, rng):
        return torch.full((rows,), self.at)
"""


@pytest.mark.parametrize("under", ["stable", "cosine", "flow"])
@pytest.mark.parametrize(("kind", "base"), [("timesteps", Timesteps), ("weights", Weight)])
def test_all_of_them_by_default(kind: str, base: type, under, tmp_path: Path) -> None:
    path = write_plot(
        SchedulePlotOptions((kind,), steps=9, schedule=under, out=tmp_path / "new" / "all.svg")
    )
    text = path.read_text()
    assert all(f">{name}<" in text for name in choices(base))
    assert [p.name for p in path.parent.iterdir()] == ["all.svg"]


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_the_same_picture_is_the_same_file(name: str, tmp_path: Path) -> None:
    first, second = (
        write_plot(
            SchedulePlotOptions(("timesteps", "ISM"), steps=30, out=tmp_path / f / name)
        ).read_bytes()
        for f in "ab"
    )
    assert first == second


def test_default_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "weights", "min-snr", "uniform"]) == 0
    assert capsys.readouterr().out.strip() == "weights.png"
    with Image.open(tmp_path / "weights.png") as picture:
        assert picture.format == "PNG" and picture.width > 600


@pytest.mark.parametrize("steps", [1, 2, 700, 5000])
def test_the_drawn_times_and_bounds_are_those_of_the_schedule(steps: int) -> None:
    (line,) = (
        plot.plot_timesteps([LinearTimesteps()], steps, stable_diffusion_schedule()).axes[0].lines
    )
    x, y = line.get_data()
    assert x[0] == 0 and x[-1] == steps - 1 and len(x) <= plot.POINTS
    wanted = [LinearTimesteps().time(int(step), steps, stable_diffusion_schedule()) for step in x]
    assert (
        max(abs(a - b) for a, b in zip(y, wanted, strict=True)) <= 0.0005 + 1e-6
    )  # ticks of a thousand
    low, high, dots = (
        plot.plot_timesteps([ISMTimesteps()], steps, stable_diffusion_schedule()).axes[0].lines
    )
    assert list(high.get_ydata()) == [
        ISMTimesteps().bounds(int(step), steps)[1] for step in high.get_xdata()
    ]
    assert len(dots.get_xdata()) >= 1 and set(low.get_ydata()) == {0.02}


def test_weights_are_drawn_over_their_mean_and_as_they_are() -> None:
    shape, raw = plot.plot_weights(
        [LambdaWeight(), BAOABWeight()], stable_diffusion_schedule()
    ).axes
    for line in shape.lines:
        y = line.get_ydata()
        assert abs(float(sum(y)) / len(y) - 1) < 1e-9
    t, y = raw.lines[1].get_data()
    assert float(y[-1]) == float(
        BAOABWeight()(stable_diffusion_schedule(), torch.tensor(t[-1:]))[0]
    )


def test_own_classes(tmp_path: Path) -> None:
    path = tmp_path / "half.py"
    path.write_text(OWN.format(default=" = 0.5"))
    assert (
        ">Half<"
        in write_plot(
            SchedulePlotOptions(("timesteps", f"{path}:Half"), out=tmp_path / "a.svg")
        ).read_text()
    )
    path.write_text(OWN.format(default=""))
    with pytest.raises(ValueError, match="not all of its options have defaults"):
        write_plot(SchedulePlotOptions(("timesteps", f"{path}:Half"), out=tmp_path / "b.svg"))
    assert not (tmp_path / "b.svg").exists()


def test_panels_without_a_schedule_are_hidden() -> None:
    figure = plot.plot_timesteps([TwoStageTimesteps()] * 5, 10, stable_diffusion_schedule())
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False] * 3
