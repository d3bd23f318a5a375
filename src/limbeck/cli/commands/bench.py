"""compare all methods on the embedded model: the leaderboard"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class BenchOptions:
    """Where the leaderboard is computed.

    Attributes:
        edits: compare methods that edit images instead, on pairs of renders.
        out: folder of the leaderboard; the same command continues a stopped one.
        workers: processes of one thread each. 0: one per core.
    """

    edits: bool = False
    out: Path = Path("runs/leaderboard")
    workers: int = field(default=0, metadata={"minimum": 0})


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck bench``: compute what is missing, and write table and page."""
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.leaderboard.protocol import Leaderboard

    if any(word in ("--edits", "--edits=True") for word in argv):
        return _compare_edits(argv)

    about = (
        "Compare all methods on the embedded model, on the same prompts and seeds, at equal "
        "network passes and at equal steps."
    )
    sections = [(Leaderboard, None), (BenchOptions, None)]
    board, options = parse(sections, argv, "limbeck bench", about)

    import os

    from limbeck.leaderboard.conduct import check_leaderboard
    from limbeck.leaderboard.folder import open_leaderboard, write_leaderboard
    from limbeck.system.folder_lock import folder_lock

    check_leaderboard(board)
    board = open_leaderboard(board, options.out)
    with folder_lock(options.out), resume_hint("the same command"):
        page = write_leaderboard(board, options.out, options.workers or os.cpu_count() or 1)
    print((options.out / "leaderboard.md").read_text(encoding="utf-8"))
    print(page)


def _compare_edits(argv: Sequence[str]) -> None:
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.leaderboard.edit_protocol import EditLeaderboard

    about = (
        "Compare methods that edit images on the embedded model, on the same rendered pairs and "
        "seeds, at equal network passes."
    )
    places = BenchOptions(out=Path("runs/edit-leaderboard"))
    sections = [(EditLeaderboard, None), (BenchOptions, places)]
    board, options = parse(sections, argv, "limbeck bench", about)

    import os

    from limbeck.leaderboard.edit_folder import write_edit_leaderboard
    from limbeck.leaderboard.folder import open_leaderboard
    from limbeck.system.folder_lock import folder_lock

    board = open_leaderboard(board, options.out)
    with folder_lock(options.out), resume_hint("the same command"):
        table = write_edit_leaderboard(board, options.out, options.workers or os.cpu_count() or 1)
    print(table.read_text(encoding="utf-8"))
    print(table)
