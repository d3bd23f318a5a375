"""Running a leaderboard: cells in a pool of processes, tuning first, then the comparison."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from limbeck.config.discovery import is_own, name_of
from limbeck.diffusion.prior import Prior
from limbeck.leaderboard.cells import Cell, CellResult, compute_cell, steps_within
from limbeck.leaderboard.judgment import tuning_objective
from limbeck.leaderboard.protocol import (
    SAMPLING,
    Budget,
    Leaderboard,
    TunedSetting,
    candidates,
    find_method,
)
from limbeck.priors.loading import load
from limbeck.system.checkpoint import write_text
from limbeck.world.pretrained import WEIGHTS, load_evaluator
from limbeck.world.scene import full_captions

_CHUNK = 16  #: prompts per cell: what is lost if a cell is interrupted
_DIVERSE_IMAGES = 8  #: images per prompt for diversity


@dataclass(frozen=True)
class RowCells:
    """The cells of one row of the table.

    Attributes:
        name: the method, or sampling.
        budget: what is equal for all methods.
        setting: the chosen guidance scale and learning rate.
        cells: cells of the comparison, in the order of the prompts.
        diverse: cells for diversity.
    """

    name: str
    budget: Budget
    setting: TunedSetting
    cells: tuple[Cell, ...]
    diverse: tuple[Cell, ...]

    @property
    def all_cells(self) -> tuple[Cell, ...]:
        """The cells of the comparison and those for diversity."""
        return (*self.cells, *self.diverse)


def make_cells(
    board: Leaderboard,
    name: str,
    setting: TunedSetting,
    prompts: Sequence[str],
    images: int,
    budget: Budget = "passes",
) -> tuple[Cell, ...]:
    """The cells of some prompts.

    Args:
        board: the leaderboard.
        name: the method, or sampling.
        setting: guidance scale and learning rate.
        prompts: the prompts.
        images: images per prompt.
        budget: what is equal for all methods.
    """
    steps = board.iterations
    if budget == "passes":
        steps = _steps_within(board.passes, name, setting.guidance, board.precision)
    chunks = [tuple(prompts[i : i + _CHUNK]) for i in range(0, len(prompts), _CHUNK)]
    return tuple(
        Cell(name, setting, chunk, images, steps, board.seed, board.precision, _code(name))
        for chunk in chunks
    )


@cache
def _steps_within(passes: int, name: str, guidance: float | None, precision: str) -> int:
    """Steps of a row, counted once per guidance scale: some methods prepare for seconds."""
    return steps_within(passes, name, TunedSetting(0.1, guidance), load_prior(precision))


def _code(name: str) -> str:
    """SHA-256 of the file of a method of the user's own; empty for others."""
    if name == SAMPLING:
        return ""
    method = find_method(name)
    if not is_own(method):
        return ""
    path = Path(name_of(method).rpartition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def check_leaderboard(board: Leaderboard) -> None:
    """Refuse what cannot be compared, before anything is written.

    Raises:
        ValueError: if the world has too few captions, or a method's step more passes than allowed.
    """
    board.scenes()
    print("counting the network passes of a step of each method", file=sys.stderr, flush=True)
    for name in board.rows:
        for setting in candidates(board, name):
            _steps_within(board.passes, name, setting.guidance, board.precision)


def run_leaderboard(
    board: Leaderboard,
    out: Path,
    workers: int,
    finished: Callable[[Sequence[RowCells], int], object],
) -> None:
    """Compute every cell that has no file yet.

    Args:
        board: the leaderboard.
        out: its folder.
        workers: processes of one thread each.
        finished: called whenever rows become complete, with all complete rows and the number of
            rows of the whole table.
    """
    scenes, tuning_scenes = board.scenes()
    prompts, tuning_prompts = full_captions(scenes), full_captions(tuning_scenes)
    with worker_pool(workers) as pool:
        chosen = _tune(board, tuning_prompts, out, pool)
        names = sorted(board.rows, key=lambda name: name != "sds")  # others are compared with it
        rows = [
            _row(board, name, chosen[name], prompts, budget)
            for budget in _budgets(board)
            for name in names
            if budget == "passes" or name != SAMPLING
        ]
        _compute_rows(rows, out, pool, finished)


def _compute_rows(
    rows: Sequence[RowCells],
    out: Path,
    pool: ProcessPoolExecutor,
    finished: Callable[[Sequence[RowCells], int], object],
) -> None:
    """Compute the cells of rows, and report complete rows; at least all of them at the end."""
    complete: list[RowCells] = []

    def report() -> None:
        found = [row for row in rows if all((out / cell.path).exists() for cell in row.all_cells)]
        if len(found) > len(complete):
            complete[:] = found
            finished(found, len(rows))

    report()
    _compute([cell for row in rows for cell in row.all_cells], out, pool, "comparison", report)


def _budgets(board: Leaderboard) -> tuple[Budget, ...]:
    return ("passes", "iterations") if board.iterations else ("passes",)


def _row(
    board: Leaderboard, name: str, setting: TunedSetting, prompts: Sequence[str], budget: Budget
) -> RowCells:
    diverse: tuple[Cell, ...] = ()
    if budget == "passes" and board.diverse_prompts:
        few = prompts[: board.diverse_prompts]
        diverse = make_cells(board, name, setting, few, _DIVERSE_IMAGES)
    cells = make_cells(board, name, setting, prompts, board.seeds, budget)
    return RowCells(name, budget, setting, cells, diverse)


def _tune(
    board: Leaderboard, prompts: Sequence[str], out: Path, pool: ProcessPoolExecutor
) -> Mapping[str, TunedSetting]:
    """Choose the setting of each row by the evaluator on the tuning prompts."""
    if not board.tuning_prompts:
        return {name: candidates(board, name)[0] for name in board.rows}
    tried = {
        name: {
            setting: make_cells(board, name, setting, prompts, 1)
            for setting in candidates(board, name)
        }
        for name in board.rows
    }
    cells = [cell for row in tried.values() for group in row.values() for cell in group]
    _compute(cells, out, pool, "tuning")
    evaluator = load_evaluator()
    chosen, report = {}, {}
    for name, row in tried.items():
        objectives = {}
        for setting, group in row.items():
            images = torch.cat([CellResult.load(out / cell.path).images for cell in group])
            objectives[setting] = tuning_objective(images, prompts, evaluator)
        chosen[name] = max(objectives, key=lambda setting: objectives[setting])
        report[name] = [
            asdict(setting) | {"objective": value, "chosen": setting == chosen[name]}
            for setting, value in objectives.items()
        ]
    write_text(out / "tuning.json", json.dumps(report, indent=1))
    return chosen


def _start_worker() -> None:
    """One thread, and an end as soon as the leaderboard has ended, however it was killed."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each; what is not begun is dropped at an error."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()  # a cell takes minutes, and an unfinished one has no file
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@cache
def load_prior(precision: str) -> Prior:
    """The embedded model, loaded once per process."""
    return load("world", "cpu", precision)  # type: ignore[arg-type]


def _compute_file(cell: Cell, path: Path) -> None:
    compute_cell(cell, load_prior(cell.precision)).save(path, cell)


def _compute(
    cells: Sequence[Cell],
    out: Path,
    pool: ProcessPoolExecutor,
    what: str,
    computed: Callable[[], object] = lambda: None,
) -> None:
    """Compute the cells that have no file, and say how far it is; ``computed`` follows each."""
    missing = {cell.path: cell for cell in cells if not (out / cell.path).exists()}
    if not missing:
        return
    start = time.monotonic()
    futures = {pool.submit(_compute_file, cell, out / path): cell for path, cell in missing.items()}
    for done, future in enumerate(as_completed(futures), 1):
        future.result()
        minutes = (time.monotonic() - start) / 60
        left = minutes / done * (len(futures) - done)
        name = futures[future].name
        print(
            f"{what}: {done} of {len(futures)} cells, {name}; {minutes:.1f} minutes, "
            f"about {left:.0f} minutes left of the {what}",
            file=sys.stderr,
            flush=True,
        )
        computed()


def model_digest() -> str:
    """A fingerprint of the embedded model and its evaluator: tables of two models do not mix."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(WEIGHTS.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
