"""metrics.jsonl: what is damaged is said, and costs no other row."""

import io
import json
import os

import pytest
import torch
from rich.console import Console
from run_folders import experiment, metrics_lines, record_run

from limbeck.priors.exact import colored_shapes
from limbeck.runs.metrics_log import read_metrics
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.system import checkpoint
from limbeck.system.checkpoint import read_checkpoint, read_metadata, write_checkpoint
from limbeck.system.notices import collect_notices, display_notices


def write_rows(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\x00", b'{"step": 4, "t"', b"[4]", b'{"step": "4"}', b"", b"7"]
)
def test_a_damaged_line_costs_no_other_row(garbage, tmp_path):
    lines = [json.dumps({"step": step}).encode() for step in range(1, 11)]
    lines[3] = garbage
    write_rows(tmp_path / "metrics.jsonl", lines)
    with display_notices(lambda text: None), collect_notices() as notices:
        rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    (text,) = notices
    assert "metrics.jsonl: 1 of 10 lines damaged" in text and "(line 4); 9 rows are left" in text


def test_a_torn_last_line_is_dropped_without_a_notice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3, "t')
    with display_notices(lambda text: None), collect_notices() as notices:
        assert [row["step"] for row in read_metrics(path)] == [1, 2]
    assert notices == []


def test_a_run_resumed_with_a_damaged_line_keeps_the_other_rows(tmp_path):
    record_run(experiment(), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    lines[2] = lines[2][:20]
    write_rows(tmp_path / "metrics.jsonl", lines)
    (tmp_path / "profile.json").unlink()  # as if it had been stopped after the last step
    with display_notices(lambda text: None), collect_notices() as notices:
        record_run(experiment(), tmp_path)
    assert [line["step"] for line in metrics_lines(tmp_path)] == [1, 2, *range(4, 13)]
    assert sum("(line 3); 11 rows are left" in text for text in notices) == 1


def test_rows_are_synced_before_the_checkpoint_that_claims_them(tmp_path, monkeypatch):
    synced, claimed, sync = [], [], os.fsync
    write = checkpoint.write_cpu_tensors

    def note(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith("metrics.jsonl"):
            synced.append(read_metrics(tmp_path / "metrics.jsonl")[-1]["step"])
        sync(descriptor)

    def note_claim(path, tensors, metadata):
        claimed.append((metadata["step"], synced[-1]))
        write(path, tensors, metadata)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(checkpoint, "write_cpu_tensors", note_claim)
    record(
        experiment(),
        colored_shapes(12),
        tmp_path,
        RecordingOptions(checkpoint_every=3),
        console=Console(file=io.StringIO()),
    )
    assert [step for step, _ in claimed] == [3, 6, 9, 12, 12]
    assert all(step == on_disk for step, on_disk in claimed)


@pytest.mark.parametrize(
    "notes", [[], [1], 3, None, {}, {"step": None}, {"step": -1}, {"step": 1.5}]
)
def test_bad_notes_of_a_checkpoint_name_its_file(notes, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"x": torch.ones(3)}, notes)
    for read in (read_metadata, read_checkpoint):
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged") as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["rows", "elapsed", "seconds"])
def test_notes_that_lack_an_entry_are_refused_in_one_line(missing, tmp_path):
    record_run(experiment(), tmp_path)
    (tmp_path / "profile.json").unlink()
    path = tmp_path / "checkpoint.safetensors"
    tensors, notes = read_checkpoint(path)
    del notes[missing]
    write_checkpoint(path, tensors, notes)
    with pytest.raises(ValueError, match=rf"checkpoint\.safetensors .*{missing}") as error:
        record_run(experiment(), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("before", [1000.0, None])
def test_processor_time_is_that_of_all_sessions(before, tmp_path):
    record_run(experiment(), tmp_path)
    (tmp_path / "profile.json").unlink()
    path = tmp_path / "checkpoint.safetensors"
    tensors, notes = read_checkpoint(path)
    assert 0 < notes.pop("cpu_seconds") < 1000
    write_checkpoint(path, tensors, notes | ({} if before is None else {"cpu_seconds": before}))
    record_run(experiment(), tmp_path)
    profile = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
    assert (before or 0) <= profile["cpu_seconds"] < (before or 0) + 1000
