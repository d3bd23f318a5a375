"""The folder of a leaderboard of edits: everything that the command writes."""

from __future__ import annotations

from pathlib import Path

from limbeck.leaderboard.edits.conduct import run_edit_leaderboard
from limbeck.leaderboard.edits.figure import draw_edit_figure
from limbeck.leaderboard.edits.protocol import EditLeaderboard
from limbeck.leaderboard.edits.table import edit_rows_to_csv, edit_rows_to_markdown, judge_edit_rows
from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.leaderboard.execution.workers import load_prior
from limbeck.runs.images import save_png
from limbeck.system.files import write_text
from limbeck.world.pretrained import load_evaluator


def write_edit_leaderboard(board: EditLeaderboard, out: Path, workers: int) -> Path:
    """Compute what is missing, and write leaderboard.csv, leaderboard.md and leaderboard.png.

    Args:
        board: the leaderboard.
        out: its folder.
        workers: processes of one thread each.

    Returns:
        The table in Markdown.

    Raises:
        ValueError: if rows failed, after all others are written.
    """
    evaluator, failures = load_evaluator(), RowFailures()
    pairs, rows = run_edit_leaderboard(board, out, workers, evaluator, failures)
    if not rows:
        failures.raise_if_any(out / board.options_file)
    judged = judge_edit_rows(pairs, rows, out, load_prior(board.precision), evaluator)
    write_text(out / "leaderboard.csv", edit_rows_to_csv(judged))
    write_text(out / "leaderboard.md", edit_rows_to_markdown(board, judged))
    columns = {"source": pairs.source_images(), "true": pairs.target_images()}
    columns |= {row.name: row.load(out)[1][:: row.seeds] for row in rows}
    save_png(draw_edit_figure(pairs, columns), out / "leaderboard.png")
    failures.raise_if_any(out / board.options_file)
    return out / "leaderboard.md"
