"""Runs are processes: started, stopped with a checkpoint, continued bit by bit, and never left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("nicegui")

from limbeck.cli.main import main
from limbeck.studio.jobs import Jobs, continuing_words, whole_run
from limbeck.studio.runs_panel import list_runs
from limbeck.system.checkpoint import read_checkpoint

WORDS = ["a red disc", "--model", "gaussians", "--method", "sds", "--steps", "1200"]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def test_a_run_that_is_stopped_and_continued_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs, folder = Jobs(), Path("runs/disc")
    job = jobs.start_run(WORDS, folder)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 0)
    assert jobs.is_running(folder) and jobs.is_running(folder.resolve())
    with pytest.raises(ValueError, match="is running already"):
        jobs.start_run(WORDS, folder)
    jobs.stop(folder)
    wait_for(lambda: not job.is_running)
    assert not job.has_failed and "To resume" in job.tail
    _, metadata = read_checkpoint(folder / "checkpoint.safetensors")
    assert 0 < metadata["step"] < 1200

    words = continuing_words(folder)
    assert words == [*WORDS, "--out", "runs/disc"]
    job = jobs.start_run(words, folder)
    wait_for(lambda: not job.is_running)
    assert not job.has_failed and "report.html" in job.tail

    main(["run", *WORDS, "--out", "whole"])
    one, _ = read_checkpoint(folder / "checkpoint.safetensors")
    other, _ = read_checkpoint(Path("whole/checkpoint.safetensors"))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    jobs.close()


def test_a_run_that_is_refused_has_failed_and_says_why(tmp_path: Path) -> None:
    jobs = Jobs()
    job = jobs.start_run(["a red disc", "--model", "gaussians", "--steps", "x"], tmp_path / "run")
    wait_for(lambda: not job.is_running)
    assert job.has_failed and job.tail == "limbeck: --steps must be an integer, not 'x'"
    jobs.close()


def test_closing_stops_what_runs(tmp_path: Path) -> None:
    jobs = Jobs()
    job = jobs.start_run([*WORDS, "--steps", "100000"], tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 0)
    jobs.close()
    assert not job.is_running
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_only_runs_of_the_command_line_are_continued(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was made in Python: continue it there"):
        continuing_words(tmp_path)
    (tmp_path / "command.txt").write_text("limbeck edit a.png\n", encoding="utf-8")
    with pytest.raises(ValueError, match="was made by limbeck edit: continue it there"):
        continuing_words(tmp_path)
    stage = tmp_path / "2-mesh"
    stage.mkdir()
    (stage / "run.yaml").touch()
    (stage / "command.txt").write_text("limbeck run a\nlimbeck run 'a b' --seed 1\n")
    assert continuing_words(tmp_path) == ["a b", "--seed", "1"]
    assert whole_run(stage) == stage  # a run whose name begins with a number is no stage
    (stage / "command.txt").write_text("limbeck run 'a b' --preset magic3d\n")
    assert whole_run(stage) == tmp_path
    (stage / "command.txt").write_text("limbeck run 'a b' --preset dreamfusion\n")
    assert whole_run(stage) == stage


def test_prompts_that_begin_with_a_dash_stay_prompts(tmp_path: Path) -> None:
    jobs = Jobs(("echo",))
    words = ["--seed", "1", "--", "-5 degrees"]
    job = jobs.start_run(words, tmp_path / "run", ["--image-every", "2"])
    wait_for(lambda: not job.is_running)
    assert job.tail == f"run --image-every 2 --out {tmp_path / 'run'} --seed 1 -- -5 degrees"
    jobs.close()


def test_a_list_of_runs_imports_no_code_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    stage = tmp_path / "run" / "1-field"
    stage.mkdir(parents=True)
    command = f"limbeck run 'a mug' --preset {tmp_path / 'mine.py'}:Mine\n"
    (stage / "command.txt").write_text(command, encoding="utf-8")
    (stage / "run.yaml").write_text("prompts: [a mug]\nsteps: 3\n", encoding="utf-8")
    assert whole_run(stage) == stage
    assert [run.folder for run in list_runs(tmp_path)] == [stage]
    (tmp_path / "run" / "best-stage.json").write_text("{}", encoding="utf-8")
    assert whole_run(stage) == tmp_path / "run"
