"""Rows of a leaderboard that fail, in a pool."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limbeck.leaderboard.execution.cell_files import compute_missing
from limbeck.leaderboard.execution.row_failures import RowFailures


@dataclass(frozen=True)
class Cell:
    name: str
    number: int

    @property
    def path(self) -> Path:
        return Path(f"{self.name}-{self.number}")


CELLS = [Cell(name, i) for i in range(3) for name in ("good", "bad")]


def compute_with(failures: RowFailures, folder: Path, error: Exception) -> list[Cell]:
    tried = []

    def compute(cell: Cell, out: Path) -> None:
        tried.append(cell)
        if cell.name == "bad":
            raise error
        (out / cell.path).touch()

    with ThreadPoolExecutor(1) as pool:
        compute_missing(CELLS, folder, pool, compute, "test", failures)
    return tried


def test_the_other_rows_are_computed_and_the_failure_is_said(tmp_path: Path, capsys: Any) -> None:
    failures = RowFailures()
    compute_with(failures, tmp_path, ValueError("no such t"))
    assert {path.name for path in tmp_path.iterdir()} == {"good-0", "good-1", "good-2"}
    assert "bad" in failures and "good" not in failures
    with pytest.raises(ValueError, match=r"bad: no such t.* methods in .*board\.yaml"):
        failures.raise_if_any(tmp_path / "board.yaml")
    assert compute_with(failures, tmp_path, ValueError("again")) == []  # not in the next phase
    assert len(compute_with(RowFailures(), tmp_path, ValueError("again"))) <= 3  # the next command


def test_an_error_without_a_message_for_the_user_is_raised_as_it_is(tmp_path: Path) -> None:
    failures = RowFailures()
    failures.raise_if_any(tmp_path / "board.yaml")
    compute_with(failures, tmp_path, KeyError("x"))
    with pytest.raises(KeyError):
        failures.raise_if_any(tmp_path / "board.yaml")


def test_a_killed_process_ends_the_leaderboard(tmp_path: Path) -> None:
    with pytest.raises(BrokenProcessPool):
        compute_with(RowFailures(), tmp_path, BrokenProcessPool("killed"))
