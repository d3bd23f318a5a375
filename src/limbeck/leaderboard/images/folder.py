"""The folder of a leaderboard: its options, cells, table and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.leaderboard.images.conduct import RowCells, run_leaderboard
from limbeck.leaderboard.images.figure import draw_leaderboard_figure
from limbeck.leaderboard.images.page import Missing, write_leaderboard_page
from limbeck.leaderboard.images.protocol import Leaderboard
from limbeck.leaderboard.images.table import RowJudge, ordered, write_leaderboard_table
from limbeck.runs.images import save_png
from limbeck.world.pretrained import load_evaluator


def write_leaderboard(board: Leaderboard, out: Path, workers: int) -> Path:
    """Compute what is missing, and write leaderboard.csv, .md, .html and .png.

    They are written after each finished row, so that a running leaderboard can be read.

    Args:
        board: the leaderboard.
        out: its folder.
        workers: processes of one thread each.

    Returns:
        The page.

    Raises:
        ValueError: if rows failed, after all others are written.
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

    failures = RowFailures()
    run_leaderboard(board, out, workers, write, failures)
    failures.raise_if_any(out / board.options_file)
    return out / "leaderboard.html"
