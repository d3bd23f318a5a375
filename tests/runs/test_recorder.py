"""A run's folder: complete, safe against every way of stopping, and bit-identical when gone on with."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import limbeck.runs.recorder as recording
from limbeck.config.yaml import from_yaml
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.runs.recorder import record
from limbeck.system.checkpoint import read_checkpoint, read_metadata, write_checkpoint
from limbeck.system.finite import NonFiniteError
from limbeck.runs.images import COLORBAR_WIDTH
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run
from run_folders import experiment, go, lines, same


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    go(experiment(), folder, image_every=4, command="limbeck distill ...")
    return folder


def test_a_run_leaves_everything(finished):
    assert from_yaml(Experiment, (finished / "run.yaml").read_text()) == experiment()
    assert (finished / "command.txt").read_text() == "limbeck distill ...\n"
    assert (
        json.loads((finished / "environment.json").read_text())["versions"]["torch"]
        == torch.__version__
    )
    assert [line["step"] for line in lines(finished)] == list(range(1, 13))
    # 4 rows, guidance: 8 rows a step; pictures for the record are not counted
    assert [line["evaluations"] for line in lines(finished)] == [8 * k for k in range(1, 13)]
    cost = json.loads((finished / "profile.json").read_text())
    assert cost["evaluations"] == 96 and cost["peak_bytes"] > 1e7 and cost["seconds"]["method"] > 0
    assert "poole2022" in (finished / "references.bib").read_text()
    expected = {"step-00000.png", "gradient-scale.json"}
    expected |= {f"step-{k:05d}{kind}.png" for k in (4, 8, 12) for kind in ("", "-x0", "-gradient")}
    assert {path.name for path in (finished / "images").iterdir()} == expected
    assert len(list((finished / "final").iterdir())) == 4
    with Image.open(finished / "progress.webp") as film:
        assert film.n_frames == 4
    assert not list(finished.rglob("*.part"))
    assert (finished / "report.html").stat().st_size < 2_000_000


def test_final_pictures_are_the_particles(finished):
    run = Run(experiment(), colored_shapes(size=12))
    while run.step < 12:
        run.advance()
    with torch.no_grad():
        image = run.representation.images(run.prior, RenderRequest(torch.tensor([3])))[0]
    with Image.open(finished / "final" / "01-01.png") as file:
        stored = torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8).view(12, 12, 3)
    assert torch.equal(stored, (image * 255).round().byte().permute(1, 2, 0))


def test_gradient_maps_share_one_scale(finished):
    top = json.loads((finished / "images" / "gradient-scale.json").read_text())["top"]
    assert 0 < top < 100
    bars = []
    for step in (4, 8, 12):
        with Image.open(finished / "images" / f"step-{step:05d}-gradient.png") as sheet:
            assert sheet.height >= 128
            bars.append(
                sheet.crop((sheet.width - COLORBAR_WIDTH, 0, sheet.width, sheet.height)).tobytes()
            )
    assert len(set(bars)) == 1


def test_a_finished_run_is_left_alone(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    report, said = go(experiment(), finished)
    assert report == finished / "report.html" and "nothing to do" in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_another_configuration_is_refused_and_nothing_touched(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(ValueError, match=r"another run: method.guidance: 7.5 -> 30.0"):
        go(experiment(method=SDS(30.0)), finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


class Crash(Exception):
    pass


def crash_at(monkeypatch, step, error=Crash):
    """Let the step after ``step`` steps fail, once its particles have moved already."""
    advance = Run.advance

    def failing(run):
        if run.step == step:
            with torch.no_grad():
                for p in run.representation.parameters():
                    p.add_(1)
            raise error
        return advance(run)

    monkeypatch.setattr(Run, "advance", failing)


@pytest.mark.parametrize("step", [0, 3, 11])
def test_a_run_that_broke_off_goes_on_bit_identically(step, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
        crash_at(patch, step)
        with pytest.raises(Crash):
            go(experiment(), tmp_path / "cut", image_every=4)
    go(experiment(), tmp_path / "cut", image_every=4)
    same(finished, tmp_path / "cut")


def test_figures_after_the_checkpoint_are_taken_out(finished, tmp_path, monkeypatch):
    """The checkpoint is older than the figures, and the last line is half written."""
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        saved = recording.Recorder.save
        patch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(
            recording.Recorder, "save", lambda self: saved(self) if self.run.step <= 5 else None
        )
        crash_at(patch, 10)
        with pytest.raises(Crash):
            go(experiment(), folder, image_every=4)
    assert (
        lines(folder)[-1]["step"] == 8
        and read_metadata(folder / "checkpoint.safetensors")["step"] == 5
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "eval')
    go(experiment(), folder, image_every=4)
    same(finished, folder)


KILLED = """
    import os, signal, sys, torch
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    torch.set_num_threads(1)
    import run_folders as t
    from limbeck.training.trainer import Run
    advance = Run.advance
    def deadly(run):
        if run.step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(run)
    Run.advance = deadly
    t.recording.CHECKPOINT_SECONDS = 0.0
    t.go(t.with_critic(), Path(sys.argv[2]), image_every=5)
"""


def with_critic():
    return experiment(method=VSD(7.5, critic=SmallUNetCritic(width=8)), batch_size=3)


def test_kill_9_with_a_critic(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(KILLED),
            os.path.dirname(__file__),
            str(tmp_path / "cut"),
        ]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        # written beside the steps, each waiting for the one before: the last may have been under way
        assert read_metadata(tmp_path / "cut" / "checkpoint.safetensors")["step"] in (6, 7)
        go(with_critic(), tmp_path / "cut", image_every=5)
        go(with_critic(), tmp_path / "whole", image_every=5)
        same(tmp_path / "whole", tmp_path / "cut")
    finally:
        torch.set_num_threads(threads)
    assert lines(tmp_path / "cut")[-1]["critic"] > 0
    assert (tmp_path / "cut" / "images" / "step-00005-critic.png").exists()
    assert list((tmp_path / "cut" / "critic").iterdir())


def test_ctrl_c_finishes_the_step_and_saves(finished, tmp_path, monkeypatch):
    advance = Run.advance

    def pressed(run):
        if run.step == 6:
            signal.raise_signal(signal.SIGINT)
        return advance(run)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", pressed)
        with pytest.raises(KeyboardInterrupt):
            go(experiment(), tmp_path / "cut", image_every=4)
    assert signal.getsignal(signal.SIGINT) is before
    assert read_metadata(tmp_path / "cut" / "checkpoint.safetensors")["step"] == 7
    go(experiment(), tmp_path / "cut", image_every=4)
    same(finished, tmp_path / "cut")


def test_a_run_stopped_in_its_last_act_is_only_finished(finished, tmp_path, monkeypatch):
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(recording, "score_pictures", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            go(experiment(), folder, image_every=4)
    monkeypatch.setattr(Run, "advance", None)
    go(experiment(), folder, image_every=4)
    same(finished, folder)


def test_a_damaged_checkpoint_is_named(finished, tmp_path):
    folder = tmp_path / "cut"
    go(experiment(), folder, image_every=4)
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is damaged .*delete it") as error:
        go(experiment(), folder)
    assert "\n" not in str(error.value)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"x": torch.ones(10)}, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # the system refuses to write more than 100 kB, as a full disk would
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match=r"cannot write .*MB needed\); the one before is kept"):
            write_checkpoint(path, {"x": torch.ones(100_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tensors, note = read_checkpoint(path)
    assert note == {"step": 1} and torch.equal(tensors["x"], torch.ones(10))
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_keep_tensors_that_share_memory_and_every_shape(tmp_path):
    x = torch.randn(4, 6)
    write_checkpoint(tmp_path / "c", {"a": x, "b": x, "t": x.T, "n": torch.tensor(3)})
    tensors, _ = read_checkpoint(tmp_path / "c")
    assert (
        torch.equal(tensors["a"], x) and torch.equal(tensors["t"], x.T) and tensors["n"].shape == ()
    )


def test_a_value_that_is_not_finite_leaves_its_inputs(tmp_path, monkeypatch):
    call = SDS.__call__
    monkeypatch.setattr(
        SDS,
        "__call__",
        lambda self, p, s, st: call(self, p, s, st) * (float("nan") if s.step == 3 else 1),
    )
    with pytest.raises(NonFiniteError, match="step 3: the direction"):
        go(experiment(), tmp_path / "run")
    tensors, note = read_checkpoint(tmp_path / "run" / "failure.safetensors")
    assert note == {"step": 3, "cause": "the direction the method answered"}
    assert tensors["gradient"].isnan().any() and tensors["x0"].shape == (4, 3, 12, 12)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]


def test_figures_of_a_run_add_up_when_the_prior_was_used_before(tmp_path):
    prior = colored_shapes(size=12)
    prior.call_counter.add(1000)
    record(experiment(steps=2), prior, tmp_path / "run", console=Console(file=io.StringIO()))
    assert json.loads((tmp_path / "run" / "profile.json").read_text())["evaluations"] == 16
