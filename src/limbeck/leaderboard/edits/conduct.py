"""Running a leaderboard of edits: tuning first, then the comparison, cell by cell."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limbeck.config.discovery import find
from limbeck.graphics.export.png import to_uint8
from limbeck.leaderboard.edits.cells import EditCell, compute_edits
from limbeck.leaderboard.edits.judgment import edit_objective
from limbeck.leaderboard.edits.pairs import EditPairs
from limbeck.leaderboard.edits.protocol import EditLeaderboard, EditSetting, edit_candidates
from limbeck.leaderboard.execution.cell_files import code_digest, compute_missing
from limbeck.leaderboard.execution.image_results import CellResult
from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.leaderboard.execution.tuning import choose_settings
from limbeck.leaderboard.execution.workers import load_prior, worker_pool
from limbeck.methods.base import EditMethod
from limbeck.runs.images import save_png
from limbeck.system.files import write_text
from limbeck.world.evaluator import Evaluator

_CHUNK = 16  #: pairs per cell: what is lost if a cell is interrupted
_PAIRS, _TUNING_PAIRS = "pairs", "tuning-pairs"


@dataclass(frozen=True)
class EditRow:
    """The cells of one row of the table.

    Attributes:
        name: name of the row.
        setting: the chosen guidance scale and strength.
        cells: cells of the comparison, by seed and then in the order of the pairs.
        seeds: edits of each pair.
    """

    name: str
    setting: EditSetting
    cells: tuple[EditCell, ...]
    seeds: int

    def load(self, folder: Path) -> tuple[list[CellResult], Float[Tensor, "n 3 h w"]]:
        """Results of the cells, and edited images in [0, 1], those of a pair next to each other.

        Args:
            folder: folder of the leaderboard.
        """
        results = [CellResult.load(folder / cell.path) for cell in self.cells]
        by_seed = torch.cat([result.images for result in results]).float() / 255
        return results, torch.stack(by_seed.chunk(self.seeds), 1).flatten(0, 1)


def save_pairs(pairs: EditPairs, folder: Path) -> None:
    """Write source, target and mask of every pair, and their prompts, for other tools as well.

    Args:
        pairs: the pairs.
        folder: folder to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    masks = pairs.masks().float().expand(-1, 3, -1, -1)
    kinds = {"source": pairs.source_images(), "target": pairs.target_images(), "mask": masks}
    for kind, images in kinds.items():
        for i, pixels in enumerate(to_uint8(images)):
            save_png(Image.fromarray(pixels), folder / f"{i:03d}-{kind}.png")
    for kind, prompts in (("source", pairs.source_prompts), ("target", pairs.target_prompts)):
        write_text(folder / f"{kind}-prompts.txt", "\n".join(prompts) + "\n")


def make_edit_cells(
    board: EditLeaderboard,
    name: str,
    setting: EditSetting,
    pairs: EditPairs,
    is_tuning: bool = False,
) -> tuple[EditCell, ...]:
    """The cells of some pairs.

    Args:
        board: the leaderboard.
        name: name of the row.
        setting: guidance scale and strength.
        pairs: the pairs.
        is_tuning: whether they are those of the tuning.
    """
    sources, targets = pairs.source_prompts, pairs.target_prompts
    return tuple(
        EditCell(
            name,
            setting,
            _TUNING_PAIRS if is_tuning else _PAIRS,
            first,
            sources[first : first + _CHUNK],
            targets[first : first + _CHUNK],
            board.passes,
            board.seed + number,
            board.precision,
            _code(name),
        )
        for number in range(1 if is_tuning else board.seeds)
        for first in range(0, len(pairs), _CHUNK)
    )


def _code(name: str) -> str:
    is_own = ":" in name or name.endswith(".py")
    return code_digest(find(EditMethod, name)) if is_own else ""


def run_edit_leaderboard(
    board: EditLeaderboard,
    folder: Path,
    workers: int,
    evaluator: Evaluator,
    failures: RowFailures,
) -> tuple[EditPairs, list[EditRow]]:
    """Compute every cell that has no file yet.

    Args:
        board: the leaderboard.
        folder: its folder.
        workers: processes of one thread each.
        evaluator: the world's evaluator.
        failures: receives the rows that failed.

    Returns:
        The pairs of the comparison, and the rows of the table, without those that failed.
    """
    print("rendering pairs that the evaluator recognizes", file=sys.stderr, flush=True)
    pairs, tuning_pairs = board.pairs(evaluator)
    save_pairs(pairs, folder / _PAIRS)
    if board.tuning_pairs:
        save_pairs(tuning_pairs, folder / _TUNING_PAIRS)
    with worker_pool(workers) as pool:
        chosen = _tune(board, tuning_pairs, folder, pool, evaluator, failures)
        rows = [
            EditRow(
                name, chosen[name], make_edit_cells(board, name, chosen[name], pairs), board.seeds
            )
            for name in chosen
        ]
        by_pairs = zip(*(row.cells for row in rows), strict=True)
        cells = [cell for own in by_pairs for cell in own]
        compute_missing(cells, folder, pool, _compute_file, "comparison", failures)
    return pairs, [row for row in rows if row.name not in failures]


def _tune(
    board: EditLeaderboard,
    pairs: EditPairs,
    folder: Path,
    pool: ProcessPoolExecutor,
    evaluator: Evaluator,
    failures: RowFailures,
) -> Mapping[str, EditSetting]:
    """Choose the setting of each row by the evaluator on the tuning pairs; no failed rows."""
    tried = {
        name: {
            setting: make_edit_cells(board, name, setting, pairs, is_tuning=True)
            for setting in edit_candidates(board, name)
        }
        for name in board.rows
    }
    if not board.tuning_pairs:
        return {name: next(iter(settings)) for name, settings in tried.items()}
    cells = [cell for settings in tried.values() for own in settings.values() for cell in own]
    compute_missing(cells, folder, pool, _compute_file, "tuning", failures)
    tried = {name: settings for name, settings in tried.items() if name not in failures}
    objectives: dict[str, dict[EditSetting, float]] = {name: {} for name in tried}
    for name, settings in tried.items():
        for setting, own in settings.items():
            _, images = EditRow(name, setting, own, 1).load(folder)
            objectives[name][setting] = edit_objective(pairs, images, evaluator)
    return choose_settings(objectives, folder)


def _compute_file(cell: EditCell, folder: Path) -> None:
    result = compute_edits(cell, load_prior(cell.precision), folder)
    result.save(folder / cell.path, cell)
