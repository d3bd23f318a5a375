"""Sweeps whose runs are evaluated when they have finished, for their table or for a search."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from mortal_method import table_of

from limbeck.cli.main import main
from limbeck.metrics.run_scores import RUN_SCORES

CONTRAST = str(Path(__file__).parents[2] / "examples" / "own_score.py")
TOY = ["red disc", "blue ring", "--model", "gaussians", "--device", "cpu", "--workers", "1"]
TOY += ["--particles", "2", "--steps", "2"]


def test_the_table_has_the_metrics_of_limbeck_eval_by_one_command(tmp_path, capsys):
    out = tmp_path / "sweep"
    argv = ["sweep", *TOY, "--lr", "0.01", "0.3", "--out", str(out)]
    assert main([*argv, "--eval"]) == 0
    rows = table_of(out)
    assert {*rows[0]} >= {"log_p", "energy_distance", "saturation"}
    for row in rows:
        report = json.loads((out / row["run"] / "eval.json").read_text())
        own = {found["prompt"]: found for found in report["by_prompt"]}[row["prompt"]]
        assert float(row["log_p"]) == pytest.approx(own["log_p"])

    capsys.readouterr()
    assert main(["eval", str(out)]) == 0  # the same networks: the same numbers
    assert main(["sweep", str(out / "sweep.yaml")]) == 0
    assert table_of(out) == rows

    files = [out / row["run"] / "eval.json" for row in rows[::2]]
    before = [file.stat().st_mtime_ns for file in files]
    assert main([*argv, "--eval"]) == 0
    assert [file.stat().st_mtime_ns for file in files] == before  # judged already
    assert main([*argv, "--score", CONTRAST]) == 0  # by another score: judged anew
    assert all(float(row["contrast"]) > 0 for row in table_of(out))


def test_a_mistake_in_a_score_stops_the_sweep_and_costs_no_run(tmp_path, capsys):
    score = tmp_path / "mine.py"
    score.write_text(
        "from limbeck.metrics.image_scores.base import ImageScore\n"
        "class Mine(ImageScore):\n"
        "    def score(self, images, prompts):\n"
        "        return images.mean((1, 2, 3)) + missing\n",
        encoding="utf-8",
    )
    out = tmp_path / "sweep"
    argv = ["sweep", *TOY, "--lr", "0.01", "0.3", "--out", str(out), "--score", str(score)]
    assert main(argv) == 2
    assert f"{score}:4, in Mine.score: NameError" in capsys.readouterr().err
    score.write_text(score.read_text(encoding="utf-8").replace(" + missing", ""), encoding="utf-8")
    assert main(argv) == 0
    assert all(float(row["mine"]) > 0 for row in table_of(out))


@pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None,
    reason="Optuna is not installed: pip install limbeck[optuna]",
)
def test_optuna_searches_for_metrics_of_limbeck_eval_and_scores_of_ones_own(tmp_path, capsys):
    argv = ["sweep", *TOY, "--lr", "log:0.01:0.3", "--optuna", "3", "--seed", "0", "1"]
    for number, more in enumerate(
        (["--minimize", "energy_distance"], ["--maximize", "contrast", "--score", CONTRAST])
    ):
        out, (word, score) = tmp_path / str(number), more[:2]
        capsys.readouterr()
        assert main([*argv, *more, "--out", str(out)]) == 0
        means = {}
        for row in table_of(out):
            means.setdefault(row["lr"], []).append(float(row[score]))
        best = {"--minimize": min, "--maximize": max}[word]
        lr = best(means, key=lambda lr: sum(means[lr]) / len(means[lr]))
        assert len(means) == 3 and f"best of 3 settings: lr {lr}:" in capsys.readouterr().err
    assert main(["sweep", str(out / "sweep.yaml")]) == 2  # the file does not name the score
    assert "--maximize contrast: no such score" in capsys.readouterr().err


def test_a_run_writes_no_score_that_a_search_does_not_know(tmp_path):
    assert main(["run", "a red mug", *TOY[4:6], "--steps", "1", "--out", str(tmp_path / "r")]) == 0
    mean = json.loads((tmp_path / "r" / "scores.json").read_text())["mean"]
    assert {*mean} <= {*RUN_SCORES}
