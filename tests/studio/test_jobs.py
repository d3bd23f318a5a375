"""Runs are processes: started, stopped with a checkpoint, continued bit by bit, and never left."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("nicegui")

from limbeck.cli.main import main
from limbeck.runs.folder_state import OUTPUT_FILE
from limbeck.studio.files import file_address, name_below
from limbeck.studio.jobs import Job, Jobs, continuing_words, whole_run
from limbeck.studio.run_output import MAX_BYTES, RunOutput
from limbeck.studio.run_states import run_state, setting_of, title_of
from limbeck.studio.run_watch import RunWatch
from limbeck.studio.runs_panel import list_runs
from limbeck.system.checkpoint import read_checkpoint

WORDS = ["a red disc", "--model", "gaussians", "--method", "sds", "--steps", "1200"]


#: a process that prints its words and goes on until a file "go" is beside its folder
WAITER = """
import pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])
print('started', out.name, flush=True)
while not (out.parent / 'go').exists():
    time.sleep(0.02)
"""


def started(job: Job | None) -> Job:
    assert job is not None
    return job


def wait_for(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_that_is_stopped_and_continued_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs, folder = Jobs(), Path("runs/disc")
    job = started(jobs.start_run(WORDS, folder))
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 0)
    assert jobs.is_running(folder) and jobs.is_running(folder.resolve())
    with pytest.raises(ValueError, match="is running already"):
        jobs.start_run(WORDS, folder)
    jobs.stop(folder)
    wait_for(lambda: not job.is_running)
    assert not job.has_failed and "To resume" in job.output.tail
    _, metadata = read_checkpoint(folder / "checkpoint.safetensors")
    assert 0 < metadata["step"] < 1200

    words = continuing_words(folder)
    assert words == [*WORDS, "--out", "runs/disc"]
    job = started(jobs.start_run(words, folder))
    wait_for(lambda: not job.is_running)
    assert not job.has_failed and "report.html" in job.output.tail

    main(["run", *WORDS, "--out", "whole"])
    one, _ = read_checkpoint(folder / "checkpoint.safetensors")
    other, _ = read_checkpoint(Path("whole/checkpoint.safetensors"))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)
    jobs.close()


def test_a_run_that_is_refused_has_failed_and_says_why_later_too(tmp_path: Path) -> None:
    jobs, folder = Jobs(), tmp_path / "run"
    words = ["a red disc", "--model", "gaussians", "--steps", "x"]
    job = started(jobs.start_run(words, folder))
    wait_for(lambda: not job.is_running)
    assert job.has_failed and run_state(folder, jobs) == "failed"
    jobs.close()

    later, output = Jobs(), RunOutput(folder / OUTPUT_FILE)
    assert run_state(folder, later) == "failed" and output.exit_code == 2
    assert output.last_line == "limbeck: error: --steps must be an integer, not 'x'"
    assert continuing_words(folder)[: len(words)] == words
    (listed,) = list_runs(tmp_path, later)
    assert (listed.folder, listed.title, listed.state) == (folder, "“a red disc”", "failed")
    main(["run", *words[:-1], "2", "--out", str(folder)])  # its folder is that of no other run
    assert run_state(folder, later) == "finished"
    later.close()


def test_a_preset_has_failed_if_any_of_its_stages_lacks_a_product(tmp_path: Path) -> None:
    jobs = Jobs()
    for name in ("1-field", "2-mesh"):
        (tmp_path / name).mkdir()
        for file in ("run.yaml", "profile.json"):
            (tmp_path / name / file).write_text("{}", encoding="utf-8")
    assert run_state(tmp_path, jobs) == "finished"
    failures = tmp_path / "1-field" / "failures.json"
    failures.write_text('{"turntable": "no luck"}', encoding="utf-8")
    assert run_state(tmp_path, jobs) == "failed"
    assert RunWatch(tmp_path).notices == ["turntable could not be written: no luck"]


def test_closing_stops_what_runs(tmp_path: Path) -> None:
    jobs = Jobs()
    job = started(jobs.start_run([*WORDS[:-1], "100000"], tmp_path / "run"))
    assert jobs.start_run(WORDS, tmp_path / "next") is None
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 0)
    jobs.close()
    assert not job.is_running and job.output.exit_code == 143
    assert jobs.waiting == [] and not (tmp_path / "next").exists()
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
    job = started(jobs.start_run(words, tmp_path / "run", ["--image-every", "2"]))
    wait_for(lambda: not job.is_running)
    jobs.close()
    assert (
        job.output.last_line
        == f"run --image-every 2 --out {tmp_path / 'run'} --seed 1 -- -5 degrees"
    )
    assert title_of(words) == "“-5 degrees”"


def test_runs_in_line_are_told_apart_by_the_options_that_were_chosen():
    words = ["a red disc", "--seed", "2", "--image-every", "1", "--out", "x", "--method", "vsd"]
    assert setting_of(words) == "--seed 2 --method vsd"
    assert setting_of(["--steps", "9", "--out", "x", "--", "--dashes", "a"]) == "--steps 9"
    assert setting_of(["a red disc"]) == ""


def test_a_list_of_runs_imports_no_code_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    stage = tmp_path / "run" / "1-field"
    stage.mkdir(parents=True)
    command = f"limbeck run 'a mug' --preset {tmp_path / 'mine.py'}:Mine\n"
    (stage / "command.txt").write_text(command, encoding="utf-8")
    (stage / "run.yaml").write_text("prompts: [a mug]\nsteps: 3\n", encoding="utf-8")
    assert whole_run(stage) == stage
    assert [run.folder for run in list_runs(tmp_path, Jobs())] == [stage]
    (tmp_path / "run" / "best-stage.json").write_text("{}", encoding="utf-8")
    assert whole_run(stage) == tmp_path / "run"


def test_the_newest_image_of_a_long_run_is_listed(tmp_path: Path) -> None:
    images = tmp_path / "run" / "images"
    images.mkdir(parents=True)
    (tmp_path / "run" / "run.yaml").write_text("prompts: [a mug]\nsteps: 3\n", encoding="utf-8")
    for name in ("step-99990", "step-100000", "step-100000-x0"):
        (images / f"{name}.png").touch()
    (listed,) = list_runs(tmp_path, Jobs())
    assert listed.image == images / "step-100000.png"


def test_runs_wait_in_line_and_start_in_order(tmp_path: Path) -> None:
    jobs = Jobs((sys.executable, "-c", WAITER))
    folders = [tmp_path / name for name in "abcd"]
    first = started(jobs.start_run(["a"], folders[0]))
    assert [jobs.start_run([folder.name], folder) for folder in folders[1:]] == [None] * 3
    assert [jobs.place(folder) for folder in folders] == [0, 1, 2, 3]
    assert not folders[1].exists() and jobs.running == 1
    states = [(run.folder.name, run.title, run.state) for run in list_runs(tmp_path, jobs)]
    assert states[:2] == [
        ("b", "“b”", "waiting, number 1 in line"),
        ("c", "“c”", "waiting, number 2 in line"),
    ]
    with pytest.raises(ValueError, match="waits in line already"):
        jobs.start_run(["c"], folders[2])
    jobs.remove(folders[2])
    jobs.stop(folders[0])
    wait_for(lambda: jobs.is_running(folders[1]))
    assert not first.is_running and [run.folder for run in jobs.waiting] == [folders[3]]
    jobs.workers = 2
    assert jobs.running == 2 and jobs.is_running(folders[3]) and jobs.waiting == []
    (tmp_path / "go").touch()
    wait_for(lambda: jobs.running == 0)
    assert not folders[2].exists()
    jobs.close()


def test_a_folder_that_cannot_be_written_does_not_hold_the_line_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs((sys.executable, "-c", WAITER))
    jobs.start_run(["a"], tmp_path / "a")
    for name in "bc":
        assert jobs.start_run([name], tmp_path / name) is None
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / OUTPUT_FILE).write_text("of somebody else", encoding="utf-8")
    jobs.stop(tmp_path / "a")
    wait_for(lambda: jobs.is_running(tmp_path / "c"))
    assert f"{OUTPUT_FILE} exists and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "b" / OUTPUT_FILE).read_text(encoding="utf-8") == "of somebody else"
    jobs.close()


def test_output_is_bounded_and_in_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    long = f"import sys\nfor i in range({MAX_BYTES // 5}): print(i, 'größer')\nsys.exit(3)"
    jobs = Jobs((sys.executable, "-c", long))
    job = started(jobs.start_run(["ein größeres Haus"], tmp_path / "run"))
    wait_for(lambda: not job.is_running)
    jobs.close()
    output = RunOutput(tmp_path / "run" / OUTPUT_FILE)
    assert output.path.stat().st_size < MAX_BYTES and output.exit_code == 3
    assert output.words[:3] == ["limbeck", "run", "ein größeres Haus"]
    assert output.last_line == f"{MAX_BYTES // 5 - 1} größer"


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_process_that_does_not_end_or_has_nothing_to_save_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    monkeypatch.setattr("limbeck.studio.jobs._STOP_SECONDS", 0.2 if has_begun else 60)
    stubborn = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(60)"
    )
    jobs = Jobs((sys.executable, "-c", stubborn))
    job = started(jobs.start_run(["a"], tmp_path / "run"))
    wait_for(lambda: job.output.last_line.isdigit())
    child = int(job.output.last_line)
    if has_begun:
        (tmp_path / "run" / "run.yaml").touch()
    assert jobs.saving == has_begun
    jobs.close()
    assert not job.is_running and not is_alive(child)


def is_alive(number: int) -> bool:
    """Whether a process goes on; one that nobody has waited for does not."""
    path = Path(f"/proc/{number}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_a_prompt_of_several_lines_is_one_command(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("")
    command = shlex.join(["limbeck", "run", "it's a\nred disc", "--seed", "1"])
    (tmp_path / "command.txt").write_text(f"(from Python)\n{command}\n{command}\n")
    assert continuing_words(tmp_path) == ["it's a\nred disc", "--seed", "1"]


def test_a_run_folder_may_be_a_link(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "report.html").write_text("")
    (root / "linked").symlink_to(elsewhere)
    address = file_address(root, root / "linked" / "report.html")
    assert address.startswith("/files/linked/report.html?")
    assert name_below(root, root / "linked") == "linked"
    with pytest.raises(ValueError, match="subpath"):
        name_below(root, elsewhere)
