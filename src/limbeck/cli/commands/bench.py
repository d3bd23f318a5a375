"""compare all methods on the embedded model: the leaderboard"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class BenchOptions:
    """Where the leaderboard is computed.

    Attributes:
        out: folder of the leaderboard; the same command continues a stopped one.
        workers: processes of one thread each. 0: one per core.
    """

    out: Path = Path("runs/leaderboard")
    workers: int = field(default=0, metadata={"minimum": 0})


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck bench``: compute what is missing, and write table and page."""
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.leaderboard.protocol import Leaderboard

    about = (
        "Compare all methods on the embedded model, on the same prompts and seeds, at equal "
        "network passes and at equal steps."
    )
    sections = [(Leaderboard, None), (BenchOptions, None)]
    board, options = parse(sections, argv, "limbeck bench", about)

    import os

    from limbeck.leaderboard.folder import open_leaderboard, write_leaderboard
    from limbeck.system.folder_lock import folder_lock

    open_leaderboard(board, options.out)
    with folder_lock(options.out), resume_hint("the same command"):
        page = write_leaderboard(board, options.out, options.workers or os.cpu_count() or 1)
    print((options.out / "leaderboard.md").read_text(encoding="utf-8"))
    print(page)
