"""Bad input of limbeck sweep is refused in one line before anything is started or written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from refusals import refused

TOY = "'red disc' --model gaussians"


@pytest.fixture(autouse=True)
def nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("run.yaml")) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ["a prompt is missing"]),
        ("--steps 5", ["a prompt is missing"]),
        (f"{TOY} --methd sds", ["--methd", "Did you mean --method?"]),
        (f"{TOY} --steps 10 0", ["steps must be at least 1, not 0", "in the run with steps 0"]),
        (f"{TOY} --seed a", ["--seed must be an integer, not 'a'"]),
        (f"{TOY} --seed 5:2", ["5:2 is not a range"]),
        (
            f"{TOY} --lr 0.1:0.3",
            ["0.1:0.3 is no range of integers: list the values, or", "uniform:0.1:0.3 or log:"],
        ),
        (
            f"{TOY} --lr 0.1 --representation.lr 0.2 0.3",
            ["--lr is short for --representation.lr: give one of them"],
        ),
        ("twice.yaml", ["twice.yaml: lr is short for representation.lr: give one of them"]),
        (f"{TOY} --method.guidance", ["--method.guidance needs a value, a number"]),
        (f"{TOY} --method sds nosuch", ["no method is called 'nosuch'", "vsd"]),
        (f"{TOY} --method sds csd --method.guidance 1", ["'guidance'", "method csd"]),
        (
            f"{TOY} --method sds dds",
            ["edits images: use limbeck edit", "in the run with method dds"],
        ),
        (f"{TOY} --lr log:0.1:1", ["log:0.1:1", "--random N"]),
        (f"{TOY} --lr log:1:0.1 --random 3", ["log:1:0.1 is empty", "0 < LOW < HIGH"]),
        (f"{TOY} --steps uniform:0.5:9 --random 3", ["--steps: uniform:0.5:9", "takes integers"]),
        (f"{TOY} --steps uniform:-9:-5 --random 3", ["steps must be at least 1"]),
        (f"{TOY} --random 3", ["random draws need", "log:0.01:1"]),
        (f"{TOY} --zip", ["--zip needs options with several values"]),
        (f"{TOY} --zip --random 3 --steps 1 2", ["exclude each other"]),
        (f"{TOY} --zip --steps 1 2 --lr 1 2 3", ["steps has 2, lr has 3"]),
        (f"{TOY} --representation.size 8 8 9", ["takes 2 words a value, and 3 are given"]),
        (
            f"{TOY} --timesteps.t-max 0.9999999 1 --seed 0:2",
            ["--timesteps.t-max has 1 twice to six digits", "give values that differ more"],
        ),
        (f"{TOY} --workers -1", ["--workers must be at least 0, not -1"]),
        (f"{TOY} --dry-run 3", ["--dry-run must be true or false, not '3'"]),
        (f"{TOY} --steps 1 2 --rows method", ["'method'", "Accepted: steps"]),
        ("zebra --model gaussians --steps 1 2", ["'zebra'", "red"]),
        ("'red disc' --model nosuch --steps 1 2", ["no model 'nosuch'", "hub id"]),
        (f"{TOY} --device tpu --steps 1 2", ["device must be auto, cpu", "'tpu'"]),
        (f"{TOY} --lr 0:100000 --steps 0:100000", ["more than 100,000"]),
        (f"{TOY} --seed log:1:3", ["seeds are not drawn", "log:1:3"]),
        (f"{TOY} --method sds sjc --rows method --columns method", ["both method"]),
        ("step.yaml", ["step.yaml: no option", "'step'", "Did you mean steps?"]),
        ("own/sweep.yaml --out own", ["own holds files already (sweep.yaml)"]),
        ("missing.yaml", ["no file missing.yaml"]),
        ("study.yaml more", ["'more' follows study.yaml"]),
        ("study.yaml", ["study.yaml: method.guidance is given twice"]),
        ("list.yaml", ["list.yaml: a sweep maps options to values"]),
        ("grid.yaml", ["grid.yaml: grid maps options to lists"]),
        (f"{TOY} --steps 1 2 --random-seed 3", ["--random-seed needs --random N"]),
        (f"{TOY} --steps 1 2 --out study.yaml", ["study.yaml is a file", "--out"]),
        (f"{TOY} --out theirs --steps 1 2", ["theirs holds files already (a.txt)"]),
    ],
)
def test_bad_input(words: str, parts: list[str], capsys: pytest.CaptureFixture[str]):
    study = "method: {guidance: 1}\ngrid: {method.guidance: [1, 2]}\n"
    Path("study.yaml").write_text(study, encoding="utf-8")
    Path("step.yaml").write_text("prompts: red disc\nstep: 3\n", encoding="utf-8")
    twice = "prompts: red disc\nmodel: gaussians\nlr: 1\nrepresentation: {lr: 2}\n"
    Path("twice.yaml").write_text(twice, encoding="utf-8")
    Path("own").mkdir()
    Path("own/sweep.yaml").write_text("prompts: red disc\nmodel: gaussians\n", encoding="utf-8")
    Path("list.yaml").write_text("- 1\n", encoding="utf-8")
    Path("grid.yaml").write_text("grid: [1, 2]\n", encoding="utf-8")
    Path("theirs").mkdir()
    Path("theirs/a.txt").write_text("a", encoding="utf-8")
    error = refused(capsys, "sweep", *shlex.split(words))
    assert all(part in error for part in parts), error


def test_a_section_with_a_typing_mistake_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = "prompts: [red disc]\nmodel: gaussians\ngird: {steps: [1, 2]}\n"
    Path("study.yaml").write_text(text, encoding="utf-8")
    message = refused(capsys, "sweep", "study.yaml")
    assert "study.yaml: no option or section is called 'gird'. Did you mean grid?" in message
