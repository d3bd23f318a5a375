"""Loggers get the same metrics and images as the run folder."""

import json
import re
import struct
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from limbeck.cli.main import main
from limbeck.config.yaml import options, read_yaml
from limbeck.priors.loading import load
from limbeck.runs.loggers import TensorBoard, WandB, scalars
from limbeck.runs.recorder import record
from limbeck.training.experiment import Experiment

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


def install_fake_wandb(monkeypatch, init):
    wandb = ModuleType("wandb")
    wandb.__spec__ = ModuleSpec("wandb", None)
    wandb.init, wandb.Image = init, lambda image: image.size
    monkeypatch.setitem(sys.modules, "wandb", wandb)


def test_weights_and_biases_gets_the_same(tmp_path, monkeypatch):
    run, settings = FakeWandbRun(), {}

    def init(**kwargs):
        settings.update(kwargs)
        return run

    install_fake_wandb(monkeypatch, init)
    folder = tmp_path / "run"
    argv = ["run", *TOY, "--logger", "wandb", "--logger.project", "mine", "--out", str(folder)]
    assert main(argv) == 0
    assert settings["project"] == "mine" and settings["name"] == "run"
    assert settings["config"]["steps"] == 6
    metrics = [(values, step) for values, step in run.calls if "residual" in values]
    assert metrics == [(scalars(line), line["step"]) for line in metrics_lines(folder)]
    assert run.calls[-1] == ({}, -1)  # finished


def test_a_folder_has_one_id_and_folders_of_the_same_name_have_different_ones(
    tmp_path, monkeypatch
):
    ids = []

    def init(**kwargs):
        ids.append(kwargs["id"])
        return FakeWandbRun()

    install_fake_wandb(monkeypatch, init)
    for folder in (tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "a" / "run"):
        folder.mkdir(parents=True, exist_ok=True)
        WandB().open(folder, {}, 0)
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize("logger", [WandB, TensorBoard])
def test_a_missing_package_is_one_line_and_leaves_no_run(logger, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, logger.package, None)
    folder = tmp_path / "run"
    assert main(["run", *TOY, "--logger", logger.name, "--out", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install {logger.package}" in line and not folder.exists()
    experiment = Experiment(("red disc",), model="gaussians", steps=2)
    with pytest.raises(ModuleNotFoundError):  # from Python too
        record(experiment, load("gaussians"), folder, logger=logger())
    assert not folder.exists()


def test_a_log_that_cannot_start_is_one_line_and_the_run_can_go_on(tmp_path, monkeypatch, capsys):
    def init(**kwargs):
        raise RuntimeError("No API key configured.\nUse `wandb login`")

    install_fake_wandb(monkeypatch, init)
    argv = ["run", *TOY, "--out", str(tmp_path / "run")]
    assert main([*argv, "--logger", "wandb"]) == 2
    error = capsys.readouterr().err
    assert "cannot start (No API key configured. Use `wandb login`)" in error
    assert "Traceback" not in error
    assert main(argv) == 0 and len(metrics_lines(tmp_path / "run")) == 6


@pytest.mark.slow
def test_real_weights_and_biases_offline_has_curves_images_and_configuration(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    logged, plain = tmp_path / "logged", tmp_path / "plain"
    assert main(["run", *TOY, "--logger", "wandb", "--out", str(logged)]) == 0
    assert main(["run", *TOY, "--out", str(plain)]) == 0
    assert (logged / "final.png").read_bytes() == (plain / "final.png").read_bytes()
    (file,) = (logged / "wandb").glob("offline-run-*/*.wandb")
    records = wandb_records(file)
    (run,) = [entry.run for entry in records if entry.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    options = json.loads(json.dumps(config_options(logged)))
    assert {key: config[key] for key in options} == options
    assert run.run_id == (logged / "wandb" / "run-id.txt").read_text().strip()
    history: dict[int, dict] = {}
    for entry in records:
        for item in entry.history.item:
            key = "/".join(item.nested_key) or item.key
            history.setdefault(entry.history.step.num, {})[key] = json.loads(item.value_json)
    for line in metrics_lines(logged):
        values = scalars(line)
        assert {name: history[line["step"]][name] for name in values} == pytest.approx(values)
    for step in (0, 3, 6):
        for kind in ("image", "x0", "gradient") if step else ("image",):
            media = file.parent / "files" / history[step][f"images/{kind}/path"]
            suffix = "" if kind == "image" else f"-{kind}"
            written = logged / "images" / f"step-{step:05d}{suffix}.png"
            with Image.open(media) as a, Image.open(written) as b:
                assert np.array_equal(np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB")))


def config_options(folder):
    """Options of a run by name, from its run.yaml."""
    return options(read_yaml(Experiment, folder / "run.yaml"))


def wandb_records(path, block=32768):
    """Records of a .wandb file: the log of LevelDB, blocks of records with 7-byte headers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part, records = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            records.append(Record.FromString(part))
            part = b""
    return records


def test_the_logger_on_the_page_runs(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "loggers.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    (tmp_path / "mine.py").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["run", *TOY, "--logger", "mine.py:Printer", "--out", "run"]) == 0
    out = capsys.readouterr().out.splitlines()
    lines = [f"{line['step']} {line['grad_norm']}" for line in metrics_lines(tmp_path / "run")]
    assert out[: len(lines)] == lines


def test_without_a_logger_neither_package_is_imported(tmp_path):
    script = "import sys\nfrom limbeck.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
    script += "assert not {'wandb', 'tensorboard'} & set(sys.modules)"
    argv = ["run", *TOY, "--out", str(tmp_path / "run")]
    subprocess.run([sys.executable, "-c", script, *argv], check=True, capture_output=True)
