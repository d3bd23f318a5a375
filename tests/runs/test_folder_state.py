"""Run folders under kills, signals, two starts, and files of someone else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import refused
from safetensors.torch import load_file

from limbeck.cli.main import main
from limbeck.config.yaml import to_yaml
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.runs.images import save_animation
from limbeck.runs.metrics_log import read_metrics
from limbeck.runs.recorder import record
from limbeck.system.checkpoint import read_metadata
from limbeck.system.folder_lock import folder_lock
from limbeck.system.notices import Notice
from limbeck.training.experiment import Experiment
from limbeck.world.training_options import WorldTraining, open_training

TOY = ["run", "red disc", "--model", "gaussians", "--device", "cpu", "--checkpoint-every", "5"]
E = Experiment(("red disc",), method=SDS(1.0), steps=3)


def start(*argv: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "limbeck", *argv]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="TERM"),
        pytest.param(signal.SIGHUP, id="HUP", marks=pytest.mark.slow),
    ],
)
def test_a_signal_of_a_cluster_leaves_a_checkpoint_and_the_result_is_the_same(tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("the signal is ignored here, as under nohup, and so it is by a run")
    folder, whole = tmp_path / "run", tmp_path / "whole"
    argv = [*TOY, "--steps", "1200", "--image-every", "5000"]
    process = start(*argv, "--out", str(folder))
    wait_for(folder / "checkpoint.safetensors")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "To resume: limbeck run" in errors
    step = read_metadata(folder / "checkpoint.safetensors")["step"]
    assert 5 <= step < 1200 and len(read_metrics(folder / "metrics.jsonl")) == step
    assert main([*argv, "--out", str(folder)]) == main([*argv, "--out", str(whole)]) == 0
    a, b = (load_file(f / "checkpoint.safetensors") for f in (folder, whole))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_second_start_in_the_same_folder_is_refused(tmp_path, capsys):
    folder = tmp_path / "run"
    argv = [*TOY, "--steps", "100000", "--out", str(folder)]
    with start(*argv) as first:
        wait_for(folder / "checkpoint.safetensors")
        assert f"in use by process {first.pid}" in refused(capsys, *argv)
        first.kill()
    rows = [row["step"] for row in read_metrics(folder / "metrics.jsonl")]
    assert rows == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("leftover", [".lock", "run.yaml.part", "checkpoint.safetensors.part"])
def test_a_start_that_was_killed_before_its_run_yaml_can_be_repeated(tmp_path, leftover):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / leftover).write_text("")
    assert main([*TOY, "--steps", "2", "--out", str(folder)]) == 0
    assert (folder / "report.html").exists()


def test_foreign_files_are_left_alone_from_python_too(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files already \(thesis\.tex\)"):
        record(E, colored_shapes(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_other_verbs_leave_foreign_files_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    image = tmp_path / "in.png"
    Image.new("RGB", (64, 64), "red").save(image)
    out = ["--out", str(tmp_path)]
    edit = ["edit", str(image), "--source-prompt", "red disc", "--target-prompt", "blue disc"]
    assert "holds files" in refused(capsys, *edit, "--model", "gaussians", *out)
    assert "holds files" in refused(capsys, "study", "guidance", "--model", "gaussians", *out)
    record(E, colored_shapes(), tmp_path / "run")
    capsys.readouterr()
    assert "holds files" in refused(capsys, "study", "distribution", *out)
    assert "holds files" in refused(capsys, "study", "edits", *out)
    (tmp_path / "plot.png").write_bytes(b"mine")
    plot = ["plot", "weights", "uniform", "--out"]
    assert "was not written by" in refused(capsys, *plot, str(tmp_path / "plot.png"))
    (tmp_path / "comparison.html").write_text("mine")
    record(E, colored_shapes(), tmp_path / "other")
    capsys.readouterr()
    runs = [str(tmp_path / "run"), str(tmp_path / "other")]
    assert "was not written by" in refused(capsys, "report", *runs)
    report = ["report", str(tmp_path / "run"), "--out"]
    assert "was not written by" in refused(capsys, *report, str(tmp_path / "thesis.tex"))
    assert "is a folder" in refused(capsys, *report, str(tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    page = tmp_path / "page.html"
    assert main([*report, str(page)]) == main([*report, str(page)]) == 0
    figure = tmp_path / "weights.png"
    assert main([*plot, str(figure)]) == main([*plot, str(figure)]) == 0
    assert (tmp_path / "plot.png").read_bytes() == b"mine"


def test_samples_that_were_cut_off_are_drawn_again(tmp_path, capsys):
    folder = tmp_path / "samples"
    argv = ["sample", "red disc", "--model", "gaussians", "--steps", "4", "--out", str(folder)]
    assert main(argv) == 0
    assert f"finished: 4 samples in {folder}" in capsys.readouterr().err
    assert "holds files already" in refused(capsys, *argv)
    (folder / "profile.json").unlink()
    assert "holds files already" in refused(capsys, *argv, "--seed", "1")
    assert main(argv) == 0 and (folder / "profile.json").exists()


def test_a_training_is_not_started_twice(tmp_path, capsys):
    argv = ["train-world", "--out", str(tmp_path / "training"), "--minutes", "1"]
    open_training(WorldTraining(out=tmp_path / "training", minutes=1.0))
    with folder_lock(tmp_path / "training"):
        assert "is in use" in refused(capsys, *argv)


def test_a_film_of_large_sheets_is_shrunk(tmp_path):
    frames = [tmp_path / f"{i}.png" for i in range(2)]
    for frame, color in zip(frames, ("red", "blue"), strict=True):
        Image.new("RGB", (17_000, 20), color).save(frame)
    save_animation(frames, tmp_path / "film.webp")
    with Image.open(tmp_path / "film.webp") as film:
        assert film.size == (16_383, 19) and film.n_frames == 2


def test_what_is_optional_does_not_cost_the_rest(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("encoder error 6")

    monkeypatch.setattr("limbeck.runs.images.save_animation", fail)
    with pytest.warns(Notice, match=r"progress\.webp could not be written \(encoder error 6\)"):
        report = record(E, colored_shapes(), tmp_path / "run")
    assert report.exists() and (report.parent / "profile.json").exists()


def test_run_yaml_is_the_first_file(tmp_path, monkeypatch):
    """A kill at any later moment leaves a folder that the same command recognizes."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("limbeck.runs.recorder.MetricsLog", stop)
    with pytest.raises(KeyboardInterrupt):
        record(E, colored_shapes(), tmp_path / "run")
    assert (tmp_path / "run" / "run.yaml").read_text() == to_yaml(E)
    monkeypatch.undo()
    assert record(E, colored_shapes(), tmp_path / "run").exists()
