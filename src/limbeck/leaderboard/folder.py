"""The folder of a leaderboard: its options, cells, table and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from limbeck.config.yaml import read_yaml, to_yaml
from limbeck.leaderboard.conduct import RowCells, model_digest, run_leaderboard
from limbeck.leaderboard.edit_protocol import EditLeaderboard
from limbeck.leaderboard.exact_protocol import ExactLeaderboard
from limbeck.leaderboard.figure import draw_leaderboard_figure
from limbeck.leaderboard.page import Missing, write_leaderboard_page
from limbeck.leaderboard.protocol import Leaderboard
from limbeck.leaderboard.table import RowJudge, ordered, write_leaderboard_table
from limbeck.runs.folder_state import foreign_files
from limbeck.runs.images import save_png
from limbeck.system.checkpoint import write_text
from limbeck.system.folder_lock import refuse_folder_in_use
from limbeck.world.pretrained import load_evaluator

AnyBoard = TypeVar("AnyBoard", Leaderboard, EditLeaderboard, ExactLeaderboard)
_OPTION_FILES: Mapping[type, str] = {
    Leaderboard: "leaderboard.yaml",
    EditLeaderboard: "edit-leaderboard.yaml",
    ExactLeaderboard: "exact-leaderboard.yaml",
}


def joined_leaderboard(board: AnyBoard, out: Path, digest: str = "") -> AnyBoard:
    """Check that a folder is free or holds the same leaderboard of the same model; write nothing.

    Args:
        board: the leaderboard.
        out: its folder.
        digest: fingerprint of the model. Empty: that of the embedded one.

    Returns:
        The leaderboard with the methods of the folder and those of ``board``.

    Raises:
        ValueError: if it is a file, in use, or holds something else.
    """
    refuse_folder_in_use(out)
    options, model = out / _OPTION_FILES[type(board)], out / "model.txt"
    if not options.exists():
        if names := foreign_files(out):
            raise ValueError(
                f"{out} holds files already ({names[0]}), and nothing is overwritten; choose "
                "another --out"
            )
        return board
    held: AnyBoard = read_yaml(type(board), options)
    before, now = (
        {k: v for k, v in vars(found).items() if k != "methods"} for found in (held, board)
    )
    changed = [name for name, value in now.items() if before[name] != value]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{out} holds a leaderboard with {name} {before[name]}, not {now[name]}: give another "
            "--out"
        )
    if model.read_text(encoding="utf-8").strip() != (digest or model_digest()):
        raise ValueError(
            f"{out} holds a leaderboard of another version of the model: give another --out"
        )
    return replace(board, methods=tuple(dict.fromkeys((*held.rows, *board.rows))))


def open_leaderboard(board: AnyBoard, out: Path, digest: str = "") -> AnyBoard:
    """Make the folder, or add the methods of ``board`` to it.

    Args:
        board: the leaderboard.
        out: its folder.
        digest: fingerprint of the model. Empty: that of the embedded one.

    Returns:
        The leaderboard with the methods of the folder and those of ``board``.

    Raises:
        ValueError: if it is a file, in use, or holds something else.
    """
    board = joined_leaderboard(board, out, digest)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "model.txt", (digest or model_digest()) + "\n")
    write_text(out / _OPTION_FILES[type(board)], to_yaml(board))
    return board


def write_leaderboard(board: Leaderboard, out: Path, workers: int) -> Path:
    """Compute what is missing, and write leaderboard.csv, .md, .html and .png.

    They are written after each finished row, so that a running leaderboard can be read.

    Args:
        board: the leaderboard.
        out: its folder.
        workers: processes of one thread each.

    Returns:
        The page.
    """
    judge = RowJudge(board, out, load_evaluator())

    def write(rows: Sequence[RowCells], total: int) -> None:
        judged = judge.judge(rows)
        write_leaderboard_table(board, judged, out)
        unmeasured = sum(not row.is_complete(out) for row in rows)
        missing = Missing(total - len(rows), unmeasured)
        write_leaderboard_page(board, rows, judged, out, missing)
        by_name = {row.name: row for row in rows if row.budget == "passes"}
        if by_name:  # a row at equal steps may be the first that is complete
            order = [row.name for row in ordered(judged, "passes")]
            save_png(draw_leaderboard_figure(board, by_name, order, out), out / "leaderboard.png")

    run_leaderboard(board, out, workers, write)
    return out / "leaderboard.html"
