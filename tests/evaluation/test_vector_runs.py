"""Evaluation of runs in the plane, whose particles are no images, against the true law."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mortal_method import table_of

from limbeck.cli.main import main
from limbeck.config.yaml import from_yaml
from limbeck.metrics.true_law import law_metrics
from limbeck.representations.latents import Latents
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation

PLANE = str(Path(__file__).parents[2] / "examples" / "plane_prior.py")
TOY = ["--model", f"{PLANE}:Plane", "--device", "cpu", "--particles", "16", "--steps", "5"]


def test_a_run_has_the_metrics_of_the_law_and_no_others(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", "all", *TOY, "--out", str(folder)]) == 0
    capsys.readouterr()
    assert main(["eval", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "16 particles, 1 prompt" in out and "16 particles of 1 prompt" in out
    assert "features" not in out and "image" not in out
    report = json.loads((folder / "eval.json").read_text())
    names = {"log_p", "energy_distance", "sliced_wasserstein", "mode_error"}
    assert {*report["metrics"]} == names and report["features"] is None
    assert sum(report["mode_shares"]["all"].values()) == pytest.approx(1)

    experiment = from_yaml(Experiment, (folder / "run.yaml").read_text())
    prior = experiment.model
    representation, _ = load_representation(folder, prior)
    assert isinstance(experiment.representation, Latents)
    (points,) = representation.parameters()
    expected = law_metrics(points.detach().flatten(1).double(), prior, "all", experiment.seed)
    for name, value in expected.items():
        assert report["metrics"][name]["value"] == pytest.approx(value)
    assert "energy distance" in (folder / "report.html").read_text()


def test_two_runs_are_compared_and_a_sweep_has_the_metrics(tmp_path, capsys):
    out = tmp_path / "sweep"
    argv = ["sweep", "all", *TOY, "--method", "sds", "vsd", "--seed", "0", "1"]
    assert main([*argv, "--workers", "1", "--eval", "--out", str(out)]) == 0
    assert all(float(row["energy_distance"]) > 0 for row in table_of(out))
    page = (out / "report.html").read_text()
    assert page.count("<img") == 4 and "Particles of each run, beside draws" in page
    capsys.readouterr()
    assert main(["eval", str(out)]) == 0
    text = capsys.readouterr().out
    assert "VSD, Latents, 5 steps minus SDS, Latents, 5 steps, paired by prompt and seed" in text


@pytest.mark.parametrize("more", [["--reference", "world"], ["--score", "mine.py"]])
def test_networks_of_images_are_refused(tmp_path, monkeypatch, capsys, more):
    monkeypatch.chdir(tmp_path)
    example = Path(__file__).parents[2] / "examples" / "own_score.py"
    Path("mine.py").write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["run", "all", *TOY, "--out", "run"]) == 0
    assert main(["eval", "run", *more]) == 2
    assert "run has no images to judge" in capsys.readouterr().err


def test_a_prior_without_a_known_law_is_refused(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from limbeck.diffusion.prior import PriorWrapper\n"
        f"import sys; sys.path.insert(0, {str(Path(PLANE).parent)!r})\n"
        "from plane_prior import Plane\n"
        "class Mine(PriorWrapper):\n"
        "    def __init__(self):\n"
        "        self.prior = Plane()\n"
        "        super().__init__(self.prior)\n"
        "    def __call__(self, xt, t, *conditions):\n"
        "        return self.prior(xt, t, *conditions)\n"
        "    def condition(self, prompts): ...\n"
        "    def encode(self, image): ...\n"
        "    def decode(self, x0): ...\n",
        encoding="utf-8",
    )
    argv = ["run", "all", "--model", f"{tmp_path / 'mine.py'}:Mine", *TOY[2:]]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert main(["eval", str(tmp_path / "run")]) == 2
    assert "the law of the model is not known" in capsys.readouterr().err
