"""compare all methods on the embedded model or an exact prior"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_WORLD = "world"  #: the embedded model, on which the main leaderboard is computed


@dataclass(frozen=True)
class BenchPlaces:
    """Where the leaderboard is computed.

    Attributes:
        out: folder of the leaderboard; the same command continues a stopped one.
        workers: processes of one thread each. 0: one per core.
    """

    out: Path = Path("runs/leaderboard")
    workers: int = field(default=0, metadata={"minimum": 0})

    @property
    def num_workers(self) -> int:
        """Number of processes."""
        return self.workers or os.cpu_count() or 1


@dataclass(frozen=True)
class BenchOptions(BenchPlaces):
    """What is compared, and where it is computed.

    Attributes:
        edits: compare methods that edit images instead, on pairs of renders.
        model: world, the embedded model; or an exact prior (gaussians, gaussians-flow,
            dataset:FOLDER, FILE.py:Class of a Gaussian mixture), on which distances to the true
            law are compared. ``limbeck bench --model gaussians --help`` lists its options.
    """

    edits: bool = False
    model: str = _WORLD


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck bench``: compute what is missing, and write table and page."""
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse, value_of
    from limbeck.leaderboard.protocol import Leaderboard

    model = value_of(argv, "--model") or _WORLD
    edits = any(word in ("--edits", "--edits=True") for word in argv)
    if edits and model != _WORLD:
        raise ValueError(f"--edits compares on the embedded model, not {model}: leave out --model")
    if edits:
        return _compare_edits(argv)
    if model != _WORLD:
        return _compare_on_exact(argv, model)

    about = (
        "Compare all methods on the embedded model, on the same prompts and seeds, at equal "
        "network passes and at equal steps."
    )
    sections = [(Leaderboard, None), (BenchOptions, None)]
    board, options = parse(sections, argv, "limbeck bench", about)

    from limbeck.leaderboard.conduct import check_leaderboard
    from limbeck.leaderboard.folder import open_leaderboard, write_leaderboard
    from limbeck.system.folder_lock import folder_lock

    check_leaderboard(board)
    board = open_leaderboard(board, options.out)
    with folder_lock(options.out), resume_hint("the same command"):
        page = write_leaderboard(board, options.out, options.num_workers)
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

    from limbeck.leaderboard.edit_folder import write_edit_leaderboard
    from limbeck.leaderboard.folder import open_leaderboard
    from limbeck.system.folder_lock import folder_lock

    board = open_leaderboard(board, options.out)
    with folder_lock(options.out), resume_hint("the same command"):
        table = write_edit_leaderboard(board, options.out, options.num_workers)
    print(table.read_text(encoding="utf-8"))
    print(table)


def _compare_on_exact(argv: Sequence[str], model: str) -> None:
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.config.yaml import slug
    from limbeck.leaderboard.exact_protocol import ExactLeaderboard

    about = (
        "Compare all methods on an exact prior by their distances to its law, on the same seeds, "
        "at equal network passes and at equal steps."
    )
    places = BenchPlaces(out=Path("runs") / f"leaderboard-{slug(model)}")
    sections = [(ExactLeaderboard, None), (BenchPlaces, places)]
    board, options = parse(sections, argv, "limbeck bench", about)

    from limbeck.leaderboard.exact_conduct import check_exact_leaderboard, law_digest
    from limbeck.leaderboard.exact_folder import write_exact_leaderboard
    from limbeck.leaderboard.exact_protocol import load_law
    from limbeck.leaderboard.folder import open_leaderboard
    from limbeck.system.folder_lock import folder_lock

    board = check_exact_leaderboard(board)
    board = open_leaderboard(board, options.out, law_digest(load_law(board.model)))
    with folder_lock(options.out), resume_hint("the same command"):
        page = write_exact_leaderboard(board, options.out, options.num_workers)
    print((options.out / "leaderboard.md").read_text(encoding="utf-8"))
    print(page)
