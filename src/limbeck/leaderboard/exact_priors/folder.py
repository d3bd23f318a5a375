"""The folder of a leaderboard on an exact prior: everything that the command writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limbeck.leaderboard.exact_priors.conduct import ExactRow, run_exact_leaderboard
from limbeck.leaderboard.exact_priors.figure import draw_particles
from limbeck.leaderboard.exact_priors.judgment import judge_exact_rows, ordered_exact_rows
from limbeck.leaderboard.exact_priors.page import write_exact_page
from limbeck.leaderboard.exact_priors.protocol import (
    ExactLeaderboard,
    exact_candidates,
    load_law,
    reads_prompt,
)
from limbeck.leaderboard.exact_priors.table import exact_rows_to_markdown
from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.leaderboard.execution.text_to_image import SAMPLING
from limbeck.leaderboard.report.judged_row import JudgedRow, to_csv
from limbeck.metrics.true_law import ExactPrior, mode_weights
from limbeck.priors.exact import GaussianMixture
from limbeck.runs.images import save_png
from limbeck.system.files import write_text


def write_exact_leaderboard(board: ExactLeaderboard, out: Path, workers: int) -> Path:
    """Compute what is missing, and write leaderboard.csv, .md, .html and .png.

    Args:
        board: the leaderboard, as ``check_exact_leaderboard`` returns it.
        out: its folder.
        workers: processes of one thread each.

    Returns:
        The page.

    Raises:
        ValueError: if rows failed, after all others are written.
    """
    prior = load_law(board.model)
    num_modes = 0
    if isinstance(prior, GaussianMixture):
        num_modes = int((mode_weights(prior, board.prompt) > 0).sum())
    failures = RowFailures()
    rows = run_exact_leaderboard(board, out, workers, failures)
    judged = judge_exact_rows(rows, num_modes, out)
    write_text(out / "leaderboard.csv", to_csv(judged))
    write_text(out / "leaderboard.md", exact_rows_to_markdown(board, judged))
    _draw(prior, rows, judged, out)
    has_guidance = reads_prompt(prior, board.prompt)
    methods = [name for name in board.rows if name != SAMPLING]
    count = len(exact_candidates(board, methods[0], has_guidance)) if methods else 1
    page = write_exact_page(board, judged, count, out)
    failures.raise_if_any(out / board.options_file)
    return page


def _draw(
    prior: ExactPrior, rows: Sequence[ExactRow], judged: Sequence[JudgedRow], out: Path
) -> None:
    computed = {row.name: row for row in rows if row.budget == "passes"}
    order = [row.name for row in ordered_exact_rows(judged, "passes")]
    particles = {name: computed[name].load(out)[0].particles for name in order}
    save_png(draw_particles(prior, particles), out / "leaderboard.png")
