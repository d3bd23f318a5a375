"""Running a leaderboard on an exact prior: tuning first, then the comparison, run by run."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from limbeck.leaderboard.exact_priors.cells import (
    NO_STEP,
    TRUE_DRAWS,
    ExactCell,
    ExactResult,
    compute_exact,
    exact_experiment,
    exact_steps_within,
)
from limbeck.leaderboard.exact_priors.protocol import (
    TUNING_SEEDS,
    ExactLeaderboard,
    exact_candidates,
    load_law,
    reads_prompt,
)
from limbeck.leaderboard.execution.cell_files import code_digest, compute_missing
from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.leaderboard.execution.text_to_image import SAMPLING, Budget, TunedSetting, find_method
from limbeck.leaderboard.execution.tuning import choose_settings
from limbeck.leaderboard.execution.workers import worker_pool
from limbeck.metrics.true_law import ExactPrior
from limbeck.priors.exact import GaussianMixture
from limbeck.training.trainer import Run

_NO_SETTING = TunedSetting(0.0, None)


@dataclass(frozen=True)
class ExactRow:
    """The cells of one row of the table.

    Attributes:
        name: the method, sampling, true draws, or no step.
        budget: what is equal for all methods.
        setting: the chosen guidance scale and learning rate; None for true draws and no step.
        cells: one cell per seed.
    """

    name: str
    budget: Budget
    setting: TunedSetting | None
    cells: tuple[ExactCell, ...]

    def load(self, folder: Path) -> list[ExactResult]:
        """Results of the cells.

        Args:
            folder: folder of the leaderboard.
        """
        return [ExactResult.load(folder / cell.path) for cell in self.cells]


def check_exact_leaderboard(board: ExactLeaderboard) -> ExactLeaderboard:
    """Refuse what cannot be compared, before anything is written.

    Returns:
        The leaderboard with all its rows by name. Without a choice of methods, those that cannot
        run on this law, or do not move, are left out.

    Raises:
        ValueError: if the model has no law in closed form, the prompt names nothing of it, or a
            chosen method cannot be compared.
    """
    prior = load_law(board.model)
    has_guidance = reads_prompt(prior, board.prompt)
    print("trying a step of each method", file=sys.stderr, flush=True)
    rows = []
    for name in board.rows:
        try:
            for setting in exact_candidates(board, name, has_guidance):
                _steps_within(board, name, setting.guidance)
            _check_moves(board, name, prior)
        except ValueError as error:
            if board.methods:
                raise
            print(f"left out {name}: {error}", file=sys.stderr, flush=True)
            continue
        rows.append(name)
    return replace(board, methods=tuple(rows))


def _check_moves(board: ExactLeaderboard, name: str, prior: ExactPrior) -> None:
    """Refuse a method whose direction is zero for every guidance scale that is tried."""
    if name == SAMPLING:
        return
    for setting in exact_candidates(board, name, reads_prompt(prior, board.prompt)):
        run = Run(exact_experiment(ExactCell(name, setting, board.prompt, 2, 1, 0, False)), prior)
        if run.advance().gradient.abs().max() > 0:
            return
    raise ValueError(
        f"the direction of {name} is zero on {board.model} given {board.prompt!r}, as that "
        "of a method that follows the difference of two prompts with the same law; leave it out of "
        "--methods"
    )


@cache
def _law(model: str) -> ExactPrior:
    return load_law(model)


def _steps_within(board: ExactLeaderboard, name: str, guidance: float | None) -> int:
    return _counted_steps(board.model, board.prompt, board.passes, name, guidance)


@cache
def _counted_steps(model: str, prompt: str, passes: int, name: str, guidance: float | None) -> int:
    """Steps of a row, counted once per guidance scale: some methods prepare for seconds."""
    return exact_steps_within(passes, name, TunedSetting(0.1, guidance), _law(model), prompt)


def make_exact_cells(
    board: ExactLeaderboard,
    name: str,
    setting: TunedSetting,
    budget: Budget = "passes",
    is_tuning: bool = False,
) -> tuple[ExactCell, ...]:
    """The cells of a row, one per seed.

    Args:
        board: the leaderboard.
        name: the method, sampling, true draws, or no step.
        setting: guidance scale and learning rate.
        budget: what is equal for all methods.
        is_tuning: whether they are those of the tuning.
    """
    steps, code = board.iterations, ""
    if name in (TRUE_DRAWS, NO_STEP):
        steps = 0
    elif budget == "passes":
        steps = _steps_within(board, name, setting.guidance)
    if name not in (SAMPLING, TRUE_DRAWS, NO_STEP):
        code = code_digest(find_method(name))
    first = board.seed + (TUNING_SEEDS if is_tuning else 0)
    return tuple(
        ExactCell(
            name,
            setting,
            board.prompt,
            board.particles,
            steps,
            first + number,
            keeps_particles=budget == "passes" and not is_tuning,
            code=code,
        )
        for number in range(board.tuning_seeds if is_tuning else board.seeds)
    )


def run_exact_leaderboard(
    board: ExactLeaderboard, folder: Path, workers: int, failures: RowFailures
) -> list[ExactRow]:
    """Compute every cell that has no file yet.

    Args:
        board: the leaderboard, as ``check_exact_leaderboard`` returns it.
        folder: its folder.
        workers: processes of one thread each.
        failures: receives the rows that failed.

    Returns:
        The rows of the tables without those that failed, true draws and no step first.
    """
    with worker_pool(workers) as pool:
        chosen = _tune(board, folder, pool, failures)
        budgets: tuple[Budget, ...] = ("passes", "iterations") if board.iterations else ("passes",)
        rows = []
        for budget in budgets:
            for name in (TRUE_DRAWS, NO_STEP):
                cells = make_exact_cells(board, name, _NO_SETTING)
                rows.append(ExactRow(name, budget, None, cells))
            for name in chosen:
                cells = make_exact_cells(board, name, chosen[name], budget)
                rows.append(ExactRow(name, budget, chosen[name], cells))
        wanted = [cell for row in rows for cell in row.cells]
        _compute(wanted, board, folder, pool, "comparison", failures)
    return [row for row in rows if row.name not in failures]


def _tune(
    board: ExactLeaderboard, folder: Path, pool: ProcessPoolExecutor, failures: RowFailures
) -> Mapping[str, TunedSetting]:
    """Choose the setting of each row by the energy distance at the seeds of the tuning.

    Rows that failed have none.
    """
    has_guidance = reads_prompt(_law(board.model), board.prompt)
    tried = {
        name: {
            setting: make_exact_cells(board, name, setting, is_tuning=True)
            for setting in exact_candidates(board, name, has_guidance)
        }
        for name in board.rows
    }
    if not board.tuning_seeds:
        return {name: next(iter(settings)) for name, settings in tried.items()}
    cells = [cell for settings in tried.values() for own in settings.values() for cell in own]
    _compute(cells, board, folder, pool, "tuning", failures)
    objectives = {
        name: {
            setting: -_mean_distance([ExactResult.load(folder / cell.path) for cell in own])
            for setting, own in settings.items()
        }
        for name, settings in tried.items()
        if name not in failures
    }
    return choose_settings(objectives, folder)


def _mean_distance(results: Sequence[ExactResult]) -> float:
    return sum(result.values["energy_distance"] for result in results) / len(results)


def _compute(
    cells: Sequence[ExactCell],
    board: ExactLeaderboard,
    folder: Path,
    pool: ProcessPoolExecutor,
    what: str,
    failures: RowFailures,
) -> None:
    compute_missing(cells, folder, pool, partial(_compute_file, board.model), what, failures)


def _compute_file(model: str, cell: ExactCell, folder: Path) -> None:
    compute_exact(cell, _law(model)).save(folder / cell.path, cell)


def law_digest(prior: ExactPrior) -> str:
    """A fingerprint of an exact prior: tables of two laws do not mix.

    Args:
        prior: the exact prior.
    """
    digest = hashlib.blake2b(repr((prior.labels, prior.schedule)).encode(), digest_size=8)
    tensors = [prior.images] if not isinstance(prior, GaussianMixture) else []
    if isinstance(prior, GaussianMixture):
        assert prior.weights is not None  # set when the prior is made
        tensors = [prior.means, prior.stds, prior.weights]
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
