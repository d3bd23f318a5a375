"""Running a leaderboard: cells in a pool of processes, tuning first, then the comparison."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from limbeck.leaderboard.execution.cell_files import code_digest
from limbeck.leaderboard.execution.image_results import CellResult
from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.leaderboard.execution.text_to_image import SAMPLING, Budget, TunedSetting, find_method
from limbeck.leaderboard.execution.tuning import choose_settings
from limbeck.leaderboard.execution.workers import load_prior, worker_pool
from limbeck.leaderboard.images.cells import Cell, compute_cell, steps_within
from limbeck.leaderboard.images.judgment import tuning_objective
from limbeck.leaderboard.images.measurement import Measurement
from limbeck.leaderboard.images.protocol import Leaderboard, candidates
from limbeck.leaderboard.images.row_measurements import row_measurements
from limbeck.leaderboard.images.time_left import Task, TimeLeft, interleaved
from limbeck.system.checkpoint import read_metadata
from limbeck.world.pretrained import load_evaluator
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
        measurements: what is measured besides, for the row of equal passes.
    """

    name: str
    budget: Budget
    setting: TunedSetting
    cells: tuple[Cell, ...]
    diverse: tuple[Cell, ...]
    measurements: tuple[Measurement, ...] = ()

    @property
    def all_cells(self) -> tuple[Cell, ...]:
        """The cells of the comparison and those for diversity."""
        return (*self.cells, *self.diverse)

    def is_judgeable(self, out: Path) -> bool:
        """Whether all cells are computed."""
        return all((out / cell.path).exists() for cell in self.all_cells)

    def is_complete(self, out: Path) -> bool:
        """Whether all cells are computed, and the row is measured."""
        measured = all((out / own.path).exists() for own in self.measurements)
        return measured and self.is_judgeable(out)


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
    return "" if name == SAMPLING else code_digest(find_method(name))


def check_leaderboard(board: Leaderboard) -> None:
    """Refuse what cannot be compared, before anything is written.

    Raises:
        ValueError: if the world has too few captions, or a method's step more passes than allowed.
    """
    board.measured_prompts()
    print("counting the network passes of a step of each method", file=sys.stderr, flush=True)
    for name in board.rows:
        for setting in candidates(board, name):
            _steps_within(board.passes, name, setting.guidance, board.precision)


def run_leaderboard(
    board: Leaderboard,
    out: Path,
    workers: int,
    finished: Callable[[Sequence[RowCells], int], object],
    failures: RowFailures,
) -> None:
    """Compute every cell that has no file yet.

    Args:
        board: the leaderboard.
        out: its folder.
        workers: processes of one thread each.
        finished: called whenever rows become complete, with all complete rows and the number of
            rows of the whole table.
        failures: receives the rows that failed, whose other cells are not computed.
    """
    scenes, tuning_scenes = board.scenes()
    prompts, tuning_prompts = full_captions(scenes), full_captions(tuning_scenes)
    with worker_pool(workers) as pool:
        clock = TimeLeft(workers)
        chosen = _tune(board, tuning_prompts, out, pool, clock, failures)
        names = sorted(chosen, key=lambda name: name != "sds")  # others are compared with it
        rows = [
            _row(board, name, chosen[name], prompts, budget)
            for budget in _budgets(board)
            for name in names
            if budget == "passes" or name != SAMPLING
        ]
        _compute_rows(rows, out, pool, finished, clock, failures)


def _compute_rows(
    rows: Sequence[RowCells],
    out: Path,
    pool: ProcessPoolExecutor,
    finished: Callable[[Sequence[RowCells], int], object],
    clock: TimeLeft,
    failures: RowFailures,
) -> None:
    """Compute the cells of rows, and report complete rows; at least all of them at the end."""
    reported: list[tuple[str, Budget, bool]] = []

    def report() -> None:
        found = [row for row in rows if row.is_judgeable(out)]
        state = [(row.name, row.budget, row.is_complete(out)) for row in found]
        if state != reported:
            reported[:] = state
            finished(found, len(rows))

    report()
    tasks: list[Task] = []
    for row in rows:
        tasks += [*row.all_cells, *row.measurements]
    _compute(tasks, out, pool, "comparison", clock, failures, report)


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
    measured: tuple[Measurement, ...] = ()
    if budget == "passes":
        measured = row_measurements(board, name, setting, cells[0].steps, cells[0].code)
    return RowCells(name, budget, setting, cells, diverse, measured)


def _tune(
    board: Leaderboard,
    prompts: Sequence[str],
    out: Path,
    pool: ProcessPoolExecutor,
    clock: TimeLeft,
    failures: RowFailures,
) -> Mapping[str, TunedSetting]:
    """Choose the setting of each row by the evaluator on the tuning prompts; no failed rows."""
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
    _compute(interleaved(cells), out, pool, "tuning", clock, failures)
    tried = {name: row for name, row in tried.items() if name not in failures}
    evaluator = load_evaluator()
    objectives: dict[str, dict[TunedSetting, float]] = {name: {} for name in tried}
    for name, row in tried.items():
        for setting, group in row.items():
            images = torch.cat([CellResult.load(out / cell.path).images for cell in group])
            objectives[name][setting] = tuning_objective(images, prompts, evaluator)
    return choose_settings(objectives, out)


def _compute_file(task: Task, path: Path) -> tuple[float, float]:
    """Compute a task; the seconds it took, of the processor and in all."""
    processor, wall = time.process_time(), time.monotonic()
    if isinstance(task, Measurement):
        task.save(task.measure(), path)
    else:
        compute_cell(task, load_prior(task.precision)).save(path, task)
    return time.process_time() - processor, time.monotonic() - wall


def _compute(
    tasks: Sequence[Task],
    out: Path,
    pool: ProcessPoolExecutor,
    what: str,
    clock: TimeLeft,
    failures: RowFailures,
    computed: Callable[[], object] = lambda: None,
) -> None:
    """Compute what has no file, and say how far it is; ``computed`` follows each task."""
    missing: dict[Path, Task] = {}
    for task in tasks:
        if not (out / task.path).exists():
            missing[task.path] = task
        elif isinstance(task, Cell) and not clock.knows(task.name):
            seconds = read_metadata(out / task.path)["seconds"]  # of one image
            clock.add(task, seconds * task.images * len(task.prompts))
    start, total = time.monotonic(), len(missing)
    futures = {pool.submit(_compute_file, task, out / path): task for path, task in missing.items()}
    for done, future in enumerate(as_completed(futures), 1):
        task = futures[future]
        del missing[task.path]
        if failures.has_failed(task.name, future):
            failures.cancel((other.name, part) for part, other in futures.items())
            continue
        seconds, wall = future.result()
        clock.add(task, seconds, wall)
        left = clock.minutes(list(missing.values()))
        text = "" if left is None else f", about {left:.0f} minutes left of the {what}"
        print(
            f"{what}: {done} of {total} parts, {task.name}; "
            f"{(time.monotonic() - start) / 60:.1f} minutes{text}",
            file=sys.stderr,
            flush=True,
        )
        computed()
