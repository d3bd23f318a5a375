"""Jobs of the background writer: their order, a full queue, errors, slow and full disks."""

import errno
import json
import threading
import time

import pytest
from run_folders import assert_same_run, experiment, metrics_lines, record_run

import limbeck.runs.recorder as recorder_module
from limbeck.cli.main import main
from limbeck.runs import snapshots_2d
from limbeck.runs.metrics_log import MetricsLog, read_metrics
from limbeck.system import checkpoint
from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.checkpoint import read_metadata

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


def fail(*_):
    raise DISK_FULL


def test_jobs_are_done_in_order_and_a_full_queue_blocks():
    writer, gate, done = BackgroundWriter(2), threading.Event(), []
    writer.submit(gate.wait)
    while not writer._jobs.empty():
        time.sleep(0.001)
    for i in range(2):
        writer.submit(lambda i=i: done.append(i))
    blocked = threading.Thread(target=lambda: writer.submit(lambda: done.append(2)))
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive() and writer._jobs.qsize() == 2 and done == []
    gate.set()
    blocked.join(5)
    writer.drain()
    assert done == [0, 1, 2] and writer.blocked_seconds > 0.05
    writer.close()
    writer.close()
    assert not writer._thread.is_alive()


def test_no_job_is_done_after_an_error_and_later_calls_raise_it():
    writer, done = BackgroundWriter(), []
    failed = writer.submit(fail)
    with pytest.raises(OSError, match="No space left"):
        writer.wait(failed)
    with pytest.raises(OSError, match="No space left"):
        writer.submit(lambda: done.append(1))
    with pytest.raises(OSError, match="No space left"):
        writer.drain()
    writer.close()
    assert done == []


def test_a_slow_disk_changes_no_result_and_metrics_are_never_behind_a_checkpoint(
    tmp_path, monkeypatch
):
    record_run(experiment(), tmp_path / "fast", image_every=4)
    write_tensors, save_png = checkpoint.write_cpu_tensors, snapshots_2d.save_png
    steps = []

    def write_slowly(path, tensors, metadata):
        time.sleep(0.02)
        last_line = read_metrics(path.with_name("metrics.jsonl"))[-1]
        steps.append((metadata["step"], last_line["step"]))
        write_tensors(path, tensors, metadata)

    def save_slowly(*args):
        time.sleep(0.01)
        save_png(*args)

    monkeypatch.setattr(recorder_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "write_cpu_tensors", write_slowly)
    monkeypatch.setattr(snapshots_2d, "save_png", save_slowly)
    folder = tmp_path / "slow"
    record_run(experiment(), folder, image_every=4)
    assert_same_run(tmp_path / "fast", folder)
    assert [step for step, _ in steps] == [*range(1, 13), 12]
    assert all(line >= step for step, line in steps)
    assert json.loads((folder / "profile.json").read_text())["background"]["blocked"] > 0.05
    assert not [t for t in threading.enumerate() if t.name == "limbeck writer"]


def test_a_full_disk_is_reported_in_a_line_and_the_old_checkpoint_stays(
    tmp_path, monkeypatch, capsys
):
    write_tensors, folder = checkpoint.write_cpu_tensors, tmp_path / "run"

    def write_until_full(path, tensors, metadata):
        if metadata["step"] > 4:
            raise DISK_FULL
        write_tensors(path, tensors, metadata)

    argv = ["run", "red disc", "--model", "gaussians", "--steps", "12"]
    argv += ["--image-every", "12", "--out", str(folder)]
    monkeypatch.setattr(recorder_module, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_cpu_tensors", write_until_full)
        assert main(argv) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("limbeck: error: the disk is full")
    assert "resumes from the last checkpoint" in message
    assert read_metadata(folder / "checkpoint.safetensors")["step"] == 4
    assert main(argv) == 0 and metrics_lines(folder)[-1]["step"] == 12


def test_no_checkpoint_is_written_after_an_error_of_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(MetricsLog, "_write", fail)
    with pytest.raises(OSError, match="No space left"):
        record_run(experiment(), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
