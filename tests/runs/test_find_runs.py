"""Finding run folders: states, the newest one, the word latest."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck.cli.main import main
from limbeck.runs.find_runs import find_runs, latest_run
from limbeck.runs.report.live import write_live_report

TOY = ["--model", "gaussians", "--device", "cpu", "--steps", "2"]


def run(prompt: str, folder: str, age: float = 0) -> Path:
    assert main(["run", prompt, *TOY, "--out", folder]) == 0
    then = time.time() - age
    for file in Path(folder).iterdir():
        os.utime(file, (then, then))
    return Path(folder)


def test_the_newest_run_and_the_states_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "latest"]) == 2
    assert "no run below runs/" in capsys.readouterr().err
    old, new = run("red disc", "runs/a", 4000), run("blue disc", "runs/study/b", 300)
    capsys.readouterr()
    assert latest_run() == new and [found.folder for found in find_runs(Path("runs"))] == [new, old]
    assert main(["report", "latest"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "runs/study/b/report.html" and err == "limbeck: latest is runs/study/b\n"

    (new / "profile.json").unlink()
    assert [found.state for found in find_runs(Path("runs"))] == ["stopped", "finished"]
    (new / "metrics.jsonl").touch()
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "runs/study/b" and lines[1].split()[:2] == ["running", "2/2"]
    assert lines[2] == "runs/a" and lines[3].split()[:5] == ["finished", "2/2", "1", "h", "ago"]
    assert "sds latents gaussians" in lines[3] and "“red disc”" in lines[3]


def test_a_run_that_lacks_a_product_has_failed_until_its_command_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run("red disc", "runs/a")
    failures = folder / "failures.json"
    failures.write_text(json.dumps({"scores.json": "no luck"}), encoding="utf-8")
    (found,) = find_runs(Path("runs"))
    assert found.state == "failed"
    capsys.readouterr()
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["failed", "2/2"]
    write_live_report(folder)
    assert found.state == "running"  # the command is repeated, by this process
    run("red disc", "runs/a", 300)
    assert not failures.exists() and found.state == "finished"
    failures.write_text("{}", encoding="utf-8")
    (folder / "profile.json").unlink()  # more steps were asked for, and it was stopped on the way
    assert found.state == "stopped"


def test_a_run_that_an_error_stopped_has_failed_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "mine.py"
    own.write_text(
        "from dataclasses import dataclass\n"
        "from limbeck.methods.sds import SDS\n"
        "@dataclass(frozen=True)\n"
        "class Mine(SDS):\n"
        "    def __call__(self, prior, inputs, state):\n"
        "        return super().__call__(prior, inputs, state) + missing\n",
        encoding="utf-8",
    )
    command = ["run", "disc", "--model", "gaussians", "--method", "mine.py:Mine"]
    command += ["--steps", "2", "--out", "runs/a"]
    assert main(command) == 2
    (found,) = find_runs(Path("runs"))
    error = f"{own}:6, in Mine.__call__: NameError: name 'missing' is not defined"
    assert found.state == "failed"
    assert (found.folder / "error.txt").read_text(encoding="utf-8") == error + "\n"
    assert found.data.unfinished == f"Unfinished: 0 of 2 steps. Stopped by an error: {error}"
    assert "Stopped by an error" in (found.folder / "report.html").read_text(encoding="utf-8")
    own.write_text(own.read_text(encoding="utf-8").replace(" + missing", ""), encoding="utf-8")
    assert main(command) == 0
    assert found.state == "finished" and not (found.folder / "error.txt").exists()
    capsys.readouterr()


@pytest.mark.skipif(os.name == "nt", reason="processes are looked up on POSIX only")
def test_a_run_whose_process_has_ended_is_stopped_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run("red disc", "runs/a", 0)
    (folder / "profile.json").unlink()
    (found,) = find_runs(Path("runs"))
    assert found.state == "running"  # by this process, as far as the files tell
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    for text, state in (
        (f"process {ended.pid} on {platform.node()}", "stopped"),
        (f"process {ended.pid} on elsewhere", "running"),
        (f"process {os.getpid()} on {platform.node()}", "running"),
        ("", "running"),
    ):
        (folder / ".lock").write_text(text, encoding="utf-8")
        assert found.state == state, text


def test_verdicts_are_listed_in_one_column_with_a_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("red disc", "runs/a", 4000)
    folder = run("blue disc", "runs/b")
    capsys.readouterr()
    assert main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4  # two lines a run
    scores = {"mean": {"object": 1.0, "color": 0.75, "background": 0.0, "all": 0.0}}
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "100/75/-/0  sds latents gaussians" in lines[1] and "ago  sds" in lines[3]
    assert lines[4].startswith("object/color/pattern/background: % of images")


def test_a_folder_called_latest_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("red disc", "latest")
    run("blue disc", "runs/b")
    capsys.readouterr()
    assert main(["report", "latest"]) == 0
    assert capsys.readouterr().out.strip() == "latest/report.html"


def test_a_configuration_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("red disc", "runs/a")
    capsys.readouterr()
    assert main(["run", "--config", "latest", "--device", "cpu", "--out", "runs/a"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main(["list", "latest"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "runs/a"
    assert main(["list", "elsewhere"]) == 2
    assert "there is no folder elsewhere" in capsys.readouterr().err


def test_runs_of_folders_that_overlap_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("red disc", "runs/sub/a")
    run("blue disc", "runs/b")
    capsys.readouterr()
    assert main(["list", "runs", "runs/sub", str(tmp_path / "runs")]) == 0
    folders = [line for line in capsys.readouterr().out.splitlines() if line.startswith("runs/")]
    assert folders == ["runs/b", "runs/sub/a"]
