"""A sweep of which no run can work stops early and says why once; one that can does not stop."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from limbeck.cli.main import main
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.expansion import Sweep
from limbeck.sweeps.planned_runs import PlannedRun, plan_runs
from limbeck.sweeps.repeated_failure import RepeatedFailure

FIXED = {"prompts": ["red disc"], "model": "gaussians"}
METHOD = """
from dataclasses import dataclass
from limbeck.methods.sds import SDS

@dataclass(frozen=True)
class Mine(SDS):
    def init(self, *context):
        raise RuntimeError("nosuch")
"""


def runs_of(**axes) -> list[PlannedRun]:
    return plan_runs(Sweep(FIXED, **axes))


def fail(watch: RepeatedFailure, run: PlannedRun, message: str = "no file a", **changes) -> None:
    outcome = RunOutcome(run.name, changes.get("kind", "error"), message)
    watch.add(run, outcome, changes.get("steps", 0))


def test_three_equal_failures_with_every_value_are_enough():
    runs = runs_of(grid={"method": ("sds", "sjc")}, seeds=(0, 1, 2))
    watch = RepeatedFailure(runs)
    for number, run in enumerate(runs[:3]):
        assert not watch.is_suspected, number
        fail(watch, run, f"{run.name}/a is missing")  # its own name makes no difference
    assert watch.is_hopeless


def test_values_that_have_not_failed_come_next():
    """The first row of a grid may fail by its one value of another option."""
    runs = runs_of(grid={"method": ("sds", "sjc"), "method.guidance": (1, 2, 3, 4)})
    watch = RepeatedFailure(runs)
    for run in runs[:3]:
        fail(watch, run)
    assert watch.is_suspected and not watch.is_hopeless
    following = max(runs[3:], key=watch.num_untried)
    assert following.options == {"method": "sjc", "method.guidance": 4}
    fail(watch, following)
    assert watch.is_hopeless


@pytest.mark.parametrize(
    "changes",
    [
        {"message": "no file b"},
        {"steps": 1},
        {"kind": "finished", "message": ""},
        {"kind": "killed"},
        {"kind": "out of memory"},
        {"kind": "stopped"},
    ],
)
def test_any_other_end_shows_that_runs_differ(changes: dict):
    runs = runs_of(grid={"method.guidance": (1, 2)}, seeds=(0, 1, 2))
    watch = RepeatedFailure(runs)
    for number, run in enumerate(runs):
        fail(watch, run, **({"message": "no file a"} | (changes if number == 1 else {})))
    assert not watch.is_suspected


def test_random_draws_need_not_all_fail():
    runs = runs_of(grid={"method.guidance": tuple(range(1, 14))})
    watch = RepeatedFailure(runs)
    for run in runs[:3]:
        fail(watch, run)
    assert watch.is_hopeless


def sweep(tmp_path: Path, *words: str) -> tuple[int, list[str]]:
    path, out = tmp_path / "mine.py", tmp_path / "sweep"
    path.write_text(METHOD, encoding="utf-8")
    command = ["sweep", "red disc", "--model", "gaussians", "--device", "cpu", "--steps", "2"]
    code = main([*command, "--out", str(out), "--workers", "1", *words])
    with (out / "results.csv").open(encoding="utf-8") as file:
        return code, [row["state"] for row in csv.DictReader(file)]


def test_a_method_that_cannot_start_is_said_once(tmp_path, capsys):
    mine = f"{tmp_path / 'mine.py'}:Mine"
    code, states = sweep(tmp_path, "--method", mine, "--seed", "0:12")
    errors = capsys.readouterr().err
    assert code == 2 and states == ["own code"] * 3 + ["waiting"] * 9
    closing = errors[errors.index("limbeck: seed-0-") :]
    assert closing.count("nosuch") == 1 and " and 2 more own code: " in closing
    assert "0 of 12 runs finished, 3 failed, 9 not started" in closing


@pytest.mark.slow
def test_a_method_that_cannot_start_does_not_stop_another(tmp_path, capsys):
    mine = f"{tmp_path / 'mine.py'}:Mine"
    words = ["--method", mine, "sds", "--method.guidance", "1", "2", "3"]
    code, states = sweep(tmp_path, *words)
    assert code == 1 and states == ["own code"] * 3 + ["finished"] * 3
    assert "3 of 6 runs finished, 3 failed\n" in capsys.readouterr().err
