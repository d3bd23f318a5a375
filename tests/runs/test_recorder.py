"""A run folder is complete, survives every interruption, and resumes bit-identically."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from run_folders import assert_same_run, experiment, metrics_lines, record_run

from limbeck.config.yaml import from_yaml
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.runs import recorder, results
from limbeck.runs.find_runs import FoundRun
from limbeck.runs.folder_state import refuse_unfinished
from limbeck.runs.images import COLORBAR_WIDTH
from limbeck.runs.recorder import record
from limbeck.runs.report.live import is_live
from limbeck.system.checkpoint import read_checkpoint, read_metadata, write_checkpoint
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    record_run(experiment(), folder, image_every=4, command="limbeck distill ...")
    return folder


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_folder_is_complete(finished):
    assert from_yaml(Experiment, (finished / "run.yaml").read_text()) == experiment()
    assert (finished / "command.txt").read_text() == "limbeck distill ...\n"
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert [line["step"] for line in metrics_lines(finished)] == list(range(1, 13))
    # 4 rows with guidance: 8 rows per step; recorded images are not counted
    evaluations = [line["evaluations"] for line in metrics_lines(finished)]
    assert evaluations == [8 * k for k in range(1, 13)]
    profile = json.loads((finished / "profile.json").read_text())
    assert profile["evaluations"] == 96 and profile["peak_bytes"] > 1e7
    assert profile["seconds"]["method"] > 0 and profile["seconds"]["results"] > 0
    assert "poole2022" in (finished / "references.bib").read_text()
    expected = {"step-00000.png", "gradient-scale.json"}
    expected |= {f"step-{k:05d}{kind}.png" for k in (4, 8, 12) for kind in ("", "-x0", "-gradient")}
    assert {path.name for path in (finished / "images").iterdir()} == expected
    assert len(list((finished / "final").iterdir())) == 4
    with Image.open(finished / "progress.webp") as animation:
        assert animation.n_frames == 4
    assert not list(finished.rglob("*.part"))
    assert (finished / "report.html").stat().st_size < 2_000_000


def test_final_images_are_the_particles(finished):
    run = Run(experiment(), colored_shapes(size=12))
    while run.step < 12:
        run.advance()
    with torch.no_grad():
        image = run.representation.images(run.prior, RenderRequest(torch.tensor([3])))[0]
    with Image.open(finished / "final" / "01-01.png") as file:
        saved = torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8).view(12, 12, 3)
    assert torch.equal(saved, (image * 255).round().byte().permute(1, 2, 0))


def test_gradient_maps_share_one_scale(finished):
    top = json.loads((finished / "images" / "gradient-scale.json").read_text())["top"]
    assert 0 < top < 100
    bars = []
    for step in (4, 8, 12):
        with Image.open(finished / "images" / f"step-{step:05d}-gradient.png") as sheet:
            assert sheet.height >= 128
            left = sheet.width - COLORBAR_WIDTH
            bars.append(sheet.crop((left, 0, sheet.width, sheet.height)).tobytes())
    assert len(set(bars)) == 1


def test_a_finished_run_is_not_touched(finished):
    before = modification_times(finished)
    report, printed = record_run(experiment(), finished)
    assert report == finished / "report.html" and "nothing to do" in printed
    assert modification_times(finished) == before


def test_another_experiment_is_refused_and_nothing_is_touched(finished):
    before = modification_times(finished)
    with pytest.raises(ValueError, match=r"another run: method.guidance: 7.5 -> 30.0"):
        record_run(experiment(method=SDS(30.0)), finished)
    assert modification_times(finished) == before


class Crash(BaseException):
    pass


def crash_at(monkeypatch, step):
    """Let the given step fail after it has changed the particles."""
    advance = Run.advance

    def failing(run):
        if run.step == step:
            with torch.no_grad():
                for p in run.representation.parameters():
                    p.add_(1)
            raise Crash
        return advance(run)

    monkeypatch.setattr(Run, "advance", failing)


@pytest.mark.parametrize("step", [0, 3, 11])
def test_a_crashed_run_resumes_bit_identically(step, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
        crash_at(patch, step)
        with pytest.raises(Crash):
            record_run(experiment(), tmp_path / "cut", image_every=4)
    record_run(experiment(), tmp_path / "cut", image_every=4)
    assert_same_run(finished, tmp_path / "cut")


def test_a_run_without_a_checkpoint_starts_over_and_says_so(finished, tmp_path, monkeypatch):
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        crash_at(patch, 5)
        with pytest.raises(Crash):
            record_run(experiment(), folder, image_every=4)
    assert not (folder / "checkpoint.safetensors").exists()
    _, text = record_run(experiment(), folder, image_every=4)
    assert "left no checkpoint, so the run starts over" in text
    assert_same_run(finished, folder)
    assert "starts over" not in record_run(experiment(), folder, image_every=4)[1]


def test_metrics_after_the_checkpoint_are_removed(finished, tmp_path, monkeypatch):
    """The checkpoint is older than the metrics, and the last line is incomplete."""
    folder = tmp_path / "cut"
    save = recorder.Recorder.save

    def save_until_step_5(self):
        if self.run.step <= 5:
            save(self)

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(recorder, "FLUSH_SECONDS", 3600.0)  # a slow machine writes more lines
        patch.setattr(recorder.Recorder, "save", save_until_step_5)
        crash_at(patch, 10)
        with pytest.raises(Crash):
            record_run(experiment(), folder, image_every=4)
    assert metrics_lines(folder)[-1]["step"] == 8
    assert read_metadata(folder / "checkpoint.safetensors")["step"] == 5
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "eval')
    record_run(experiment(), folder, image_every=4)
    assert_same_run(finished, folder)


def test_checkpoints_can_be_taken_by_steps(tmp_path, monkeypatch):
    crash_at(monkeypatch, 7)
    with pytest.raises(Crash):
        record_run(experiment(), tmp_path, checkpoint_every=3)
    assert read_metadata(tmp_path / "checkpoint.safetensors")["step"] == 6


KILL_AT_STEP_7 = """
    import os, signal, sys, torch
    from pathlib import Path
    torch.set_num_threads(1)
    from limbeck.distillation.critics.small_unet import SmallUNetCritic
    from limbeck.methods.vsd import VSD
    from limbeck.runs import recorder
    from limbeck.training.trainer import Run
    from run_folders import experiment, record_run
    advance = Run.advance
    def killed(run):
        if run.step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(run)
    Run.advance = killed
    recorder.CHECKPOINT_SECONDS = 0.0
    vsd = VSD(7.5, critic=SmallUNetCritic(width=8))
    record_run(experiment(method=vsd, batch_size=3), Path(sys.argv[1]), image_every=5)
"""


def test_kill_9_with_a_critic(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    e = experiment(method=VSD(7.5, critic=SmallUNetCritic(width=8)), batch_size=3)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    helpers = str(Path(__file__).parents[1] / "helpers")
    try:
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(KILL_AT_STEP_7), str(cut)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([helpers, *sys.path])},
            capture_output=True,
            timeout=120,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        # checkpoints are written in the background: the last one may have been incomplete
        assert read_metadata(cut / "checkpoint.safetensors")["step"] in (6, 7)
        record_run(e, cut, image_every=5)
        record_run(e, whole, image_every=5)
        assert_same_run(whole, cut)
    finally:
        torch.set_num_threads(threads)
    assert metrics_lines(cut)[-1]["critic"] > 0
    assert (cut / "images" / "step-00005-critic.png").exists()
    assert list((cut / "critic").iterdir())


def test_ctrl_c_finishes_the_step_and_saves(finished, tmp_path, monkeypatch):
    advance = Run.advance

    def interrupted(run):
        if run.step == 6:
            signal.raise_signal(signal.SIGINT)
        return advance(run)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            record_run(experiment(), tmp_path / "cut", image_every=4)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_metadata(tmp_path / "cut" / "checkpoint.safetensors")["step"] == 7
    record_run(experiment(), tmp_path / "cut", image_every=4)
    assert_same_run(finished, tmp_path / "cut")


def test_a_run_stopped_after_its_last_step_is_only_finished(finished, tmp_path, monkeypatch):
    folder = tmp_path / "cut"

    def fail(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(results, "score_run", fail)
        with pytest.raises(Crash):
            record_run(experiment(), folder, image_every=4)
    monkeypatch.setattr(Run, "advance", None)
    record_run(experiment(), folder, image_every=4)
    assert_same_run(finished, folder)


def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = tmp_path / "cut"
    record_run(experiment(), folder, image_every=4)
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is damaged .*delete it") as error:
        record_run(experiment(), folder)
    assert "\n" not in str(error.value)


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"x": torch.ones(10)}, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # the system refuses to write more than 100 kB, as a full disk would
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match=r"cannot write .*MB needed\)"):
            write_checkpoint(path, {"x": torch.ones(100_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tensors, metadata = read_checkpoint(path)
    assert metadata == {"step": 1} and torch.equal(tensors["x"], torch.ones(10))
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_keep_shared_memory_transposes_and_scalars(tmp_path):
    x = torch.randn(4, 6)
    write_checkpoint(tmp_path / "c", {"a": x, "b": x, "t": x.T, "n": torch.tensor(3)}, {"step": 1})
    tensors, _ = read_checkpoint(tmp_path / "c")
    assert torch.equal(tensors["a"], x) and torch.equal(tensors["t"], x.T)
    assert tensors["n"].shape == ()


def test_a_non_finite_value_leaves_the_inputs_of_its_step(tmp_path, monkeypatch):
    call = SDS.__call__

    def nan_at_step_3(self, prior, inputs, state):
        return call(self, prior, inputs, state) * (float("nan") if inputs.step == 3 else 1)

    monkeypatch.setattr(SDS, "__call__", nan_at_step_3)
    printed = io.StringIO()
    with pytest.raises(NonFiniteError, match="step 3: the direction"):
        record(experiment(), colored_shapes(12), tmp_path / "run", console=Console(file=printed))
    assert "the inputs of step 3 are in" in printed.getvalue()
    assert "not finite" not in printed.getvalue()  # the error says it
    tensors, metadata = read_checkpoint(tmp_path / "run" / "failure.safetensors")
    assert metadata["step"] == 3 and metadata["cause"].startswith("the direction")
    assert tensors["gradient"].isnan().any() and tensors["x0"].shape == (4, 3, 12, 12)
    assert [line["step"] for line in metrics_lines(tmp_path / "run")] == [1, 2, 3]
    assert not is_live(tmp_path / "run" / "report.html")  # nothing goes on
    monkeypatch.setattr("limbeck.runs.find_runs._SILENT_SECONDS", 0.0)
    assert FoundRun(tmp_path / "run").state == "failed"
    # to resume it would end there again
    with pytest.raises(ValueError, match=r"stopped at step 3 of \d+, because the direction"):
        refuse_unfinished(tmp_path / "run", experiment())


def test_earlier_use_of_the_prior_is_not_counted(tmp_path):
    prior = colored_shapes(size=12)
    prior.call_counter.add(1000)
    record(experiment(steps=2), prior, tmp_path / "run", console=Console(file=io.StringIO()))
    profile = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert profile["evaluations"] == 16
