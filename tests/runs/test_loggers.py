"""Loggers get the same metrics and images as the run folder."""

import json
import subprocess
import sys
from types import ModuleType

import pytest

from limbeck.cli.main import main
from limbeck.runs.loggers import WandB, scalars

TOY = ["red disc", "--model", "gaussians", "--steps", "6", "--image-every", "3"]


def metrics_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_holds_all_metrics_and_images_of_the_folder(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    assert main(["run", *TOY, "--logger", "tensorboard", "--out", str(folder)]) == 0
    events = accumulator.EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0}
    )
    events.Reload()
    lines = metrics_lines(folder)
    assert set(events.Tags()["scalars"]) == set(scalars(lines[0]))
    for name in scalars(lines[0]):
        logged = {event.step: event.value for event in events.Scalars(name)}
        assert logged == pytest.approx({line["step"]: line[name] for line in lines})
    steps = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps == {"image": [0, 3, 6], "x0": [3, 6], "gradient": [3, 6]}


class FakeWandbRun:
    def __init__(self):
        self.calls: list[tuple[dict, int]] = []

    def log(self, values, step):
        self.calls.append((values, step))

    def finish(self):
        self.calls.append(({}, -1))


def test_weights_and_biases_gets_the_same(tmp_path, monkeypatch):
    run, settings = FakeWandbRun(), {}
    wandb = ModuleType("wandb")

    def init(**kwargs):
        settings.update(kwargs)
        return run

    wandb.init = init
    wandb.Image = lambda image: image.size
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder = tmp_path / "run"
    argv = ["run", *TOY, "--logger", "wandb", "--logger.project", "mine", "--out", str(folder)]
    assert main(argv) == 0
    assert settings["project"] == "mine" and settings["id"] == "run"
    assert settings["config"]["steps"] == 6
    metrics = [(values, step) for values, step in run.calls if "residual" in values]
    assert metrics == [(scalars(line), line["step"]) for line in metrics_lines(folder)]
    assert run.calls[-1] == ({}, -1)  # finished


def test_a_missing_package_is_one_line_and_leaves_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError):
        WandB().open(tmp_path, {}, 0)
    assert main(["run", *TOY, "--logger", "wandb", "--out", str(tmp_path / "run")]) == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_without_a_logger_neither_package_is_imported(tmp_path):
    script = "import sys\nfrom limbeck.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
    script += "assert not {'wandb', 'tensorboard'} & set(sys.modules)"
    argv = ["run", *TOY, "--out", str(tmp_path / "run")]
    subprocess.run([sys.executable, "-c", script, *argv], check=True, capture_output=True)
