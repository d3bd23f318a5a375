"""What TensorBoard and Weights & Biases are told is what the run folder says."""

import json
import sys
from types import ModuleType

import pytest

from limbeck.cli.main import main
from limbeck.runs.loggers import WandB, scalars

TOY = ["red disc", "--model", "gaussians", "--steps", "6", "--every", "3"]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_holds_every_figure_and_picture_of_the_folder(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    assert main(["run", *TOY, "--mirror", "tensorboard", "--out", str(folder)]) == 0
    events = accumulator.EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0}
    )
    events.Reload()
    told = lines(folder)
    assert set(events.Tags()["scalars"]) == set(scalars(told[0]))
    for name in scalars(told[0]):
        kept = {e.step: e.value for e in events.Scalars(name)}
        assert kept == pytest.approx({line["step"]: line[name] for line in told})
    assert {t: [e.step for e in events.Images(t)] for t in events.Tags()["images"]} == {
        "picture": [0, 3, 6], "x0": [3, 6], "gradient": [3, 6],
    }  # fmt: skip


def test_weights_and_biases_is_told_the_same(tmp_path, monkeypatch):
    said: list[tuple[dict, int]] = []

    class Told:
        def log(self, what, step):
            said.append((what, step))

        def finish(self):
            said.append(({}, -1))

    stub, asked = ModuleType("wandb"), {}
    stub.init = lambda **how: asked.update(how) or Told()
    stub.Image = lambda picture: picture.size
    monkeypatch.setitem(sys.modules, "wandb", stub)
    folder = tmp_path / "run"
    assert (
        main(["run", *TOY, "--mirror", "wandb", "--mirror.project", "mine", "--out", str(folder)])
        == 0
    )
    assert asked["project"] == "mine" and asked["id"] == "run" and asked["config"]["steps"] == 6
    figures = [
        (what, step)
        for what, step in said
        if "gradient" in what and not isinstance(what["gradient"], tuple)
    ]
    assert [(what, step) for what, step in figures] == [
        (scalars(line), line["step"]) for line in lines(folder)
    ]
    assert said[-1] == ({}, -1)  # closed


def test_a_missing_package_is_one_line_and_leaves_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError):
        WandB().open(tmp_path, {}, 0)
    assert main(["run", *TOY, "--mirror", "wandb", "--out", str(tmp_path / "run")]) == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_without_a_mirror_neither_package_is_imported(tmp_path):
    import subprocess

    script = "import sys\nfrom limbeck.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
    script += "assert not {'wandb', 'tensorboard'} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", script, "run", *TOY, "--out", str(tmp_path / "run")],
        check=True,
        capture_output=True,
    )
