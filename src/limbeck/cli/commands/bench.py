"""compare all methods on the embedded model or an exact prior"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_RUNS = Path("runs")  #: folder of the folders of leaderboards
_WORLD = "world"  #: the embedded model, on which the main leaderboard is computed


@dataclass(frozen=True)
class BenchPlaces:
    """Where the leaderboard is computed.

    Attributes:
        out: folder of the leaderboard; the same command continues a stopped one.
        workers: processes of one thread each. 0: one per core.
    """

    out: Path = _RUNS / "leaderboard"
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
        in_3d: compare 3D recipes instead, on the objects of the world from 32 cameras.
        model: world, the embedded model; or an exact prior (gaussians, gaussians-flow,
            dataset:FOLDER, FILE.py:Class of a Gaussian mixture), on which distances to the true
            law are compared. ``limbeck bench --model gaussians --help`` lists its options.
    """

    edits: bool = False
    in_3d: bool = False
    model: str = _WORLD


@dataclass(frozen=True)
class AssetBenchOptions(BenchPlaces):
    """Where the leaderboard of 3D recipes is computed.

    Attributes:
        in_3d: compare 3D recipes.
        workers: runs at a time; 0 for one per GPU, or per core on a CPU.
        retries: further attempts for a run that is killed, runs out of memory or fails.
        device: auto, cpu, cuda, cuda:N or mps; auto and cuda take all GPUs in turn.
        films: turntables, stills and meshes over time of each run, which the tables do not need.
    """

    in_3d: bool = True
    out: Path = _RUNS / "leaderboard-3d"
    retries: int = field(default=0, metadata={"minimum": 0})
    device: str = "auto"
    films: bool = False


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck bench``: compute what is missing, and write table and page."""
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse, value_of
    from limbeck.leaderboard.execution.quick_options import notify_lowered
    from limbeck.leaderboard.images.protocol import Leaderboard

    model, edits = value_of(argv, "--model") or _WORLD, _has_flag(argv, "--edits")
    if _has_flag(argv, "--in-3d"):
        if edits or model != _WORLD:
            other = "--edits" if edits else f"--model {model}"
            raise ValueError(f"--in-3d and {other} exclude each other: give one of them")
        return _compare_assets(argv)
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
    places = BenchOptions(out=_folder("leaderboard", argv))
    sections = [(Leaderboard, None), (BenchOptions, places)]
    board, options = parse(sections, argv, "limbeck bench", about)
    notify_lowered(board, argv)

    from limbeck.leaderboard.execution.folder import joined_leaderboard, open_leaderboard
    from limbeck.leaderboard.images.conduct import check_leaderboard
    from limbeck.leaderboard.images.folder import write_leaderboard
    from limbeck.system.folder_lock import folder_lock

    board = joined_leaderboard(board, options.out)
    check_leaderboard(board)
    board = open_leaderboard(board, options.out)
    with folder_lock(options.out), resume_hint("the same command"):
        page = write_leaderboard(board, options.out, options.num_workers)
    print((options.out / "leaderboard.md").read_text(encoding="utf-8"))
    print(page)


def _has_flag(argv: Sequence[str], flag: str) -> bool:
    """Whether an option of true or false is given and true, before the options are parsed."""
    found = False
    for word, following in itertools.pairwise([*argv, ""]):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = (value if equals else following).lower() != "false"
    return found


def _folder(name: str, argv: Sequence[str]) -> Path:
    """Default folder of a leaderboard; a quick one has its own, and leaves the full one alone."""
    return _RUNS / (f"{name}-quick" if _has_flag(argv, "--quick") else name)


def _compare_edits(argv: Sequence[str]) -> None:
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.leaderboard.edits.protocol import EditLeaderboard
    from limbeck.leaderboard.execution.quick_options import notify_lowered

    about = (
        "Compare methods that edit images on the embedded model, on the same rendered pairs and "
        "seeds, at equal network passes."
    )
    places = BenchOptions(out=_folder("edit-leaderboard", argv))
    sections = [(EditLeaderboard, None), (BenchOptions, places)]
    board, options = parse(sections, argv, "limbeck bench", about)
    notify_lowered(board, argv)

    from limbeck.leaderboard.edits.folder import write_edit_leaderboard
    from limbeck.leaderboard.execution.folder import open_leaderboard
    from limbeck.system.folder_lock import folder_lock

    board = open_leaderboard(board, options.out)
    with folder_lock(options.out), resume_hint("the same command"):
        table = write_edit_leaderboard(board, options.out, options.num_workers)
    print(table.read_text(encoding="utf-8"))
    print(table)


def _compare_on_exact(argv: Sequence[str], model: str) -> None:
    from limbeck.cli.run_folder import resume_hint
    from limbeck.config.command_line import parse
    from limbeck.leaderboard.exact_priors.protocol import ExactLeaderboard
    from limbeck.leaderboard.execution.quick_options import notify_lowered
    from limbeck.system.files import slug

    about = (
        "Compare all methods on an exact prior by their distances to its law, on the same seeds, "
        "at equal network passes and at equal steps."
    )
    places = BenchPlaces(out=_folder(f"leaderboard-{slug(model)}", argv))
    sections = [(ExactLeaderboard, None), (BenchPlaces, places)]
    board, options = parse(sections, argv, "limbeck bench", about)
    notify_lowered(board, argv)

    from limbeck.leaderboard.exact_priors.conduct import check_exact_leaderboard, law_digest
    from limbeck.leaderboard.exact_priors.folder import write_exact_leaderboard
    from limbeck.leaderboard.exact_priors.protocol import load_law
    from limbeck.leaderboard.execution.folder import open_leaderboard
    from limbeck.system.folder_lock import folder_lock

    board = check_exact_leaderboard(board)
    board = open_leaderboard(board, options.out, law_digest(load_law(board.model)))
    with folder_lock(options.out), resume_hint("the same command"):
        page = write_exact_leaderboard(board, options.out, options.num_workers)
    print((options.out / "leaderboard.md").read_text(encoding="utf-8"))
    print(page)


def _compare_assets(argv: Sequence[str]) -> None:
    import shlex

    from rich.console import Console

    from limbeck.cli.run_folder import INCOMPLETE, resume_hint
    from limbeck.config.command_line import parse
    from limbeck.leaderboard.assets.protocol import AssetLeaderboard
    from limbeck.leaderboard.execution.quick_options import notify_lowered

    about = (
        "Compare 3D recipes on the embedded model: the same objects and seeds, judged from 32 "
        "held-out cameras, with differences paired by object and seed."
    )
    places = AssetBenchOptions(out=_folder("leaderboard-3d", argv))
    sections = [(AssetLeaderboard, None), (AssetBenchOptions, places)]
    board, options = parse(sections, argv, "limbeck bench", about)
    notify_lowered(board, argv)

    import sys

    from limbeck.leaderboard.assets import folder as asset_folder
    from limbeck.leaderboard.assets.judgment import AssetJudge
    from limbeck.sweeps.engines.process_pool import ProcessPool
    from limbeck.sweeps.live_table import LiveTable, sweep_closing_lines
    from limbeck.system.folder_lock import folder_lock
    from limbeck.world.pretrained import load_evaluator

    out, command = options.out, shlex.join(["limbeck", "bench", *argv])
    judge = AssetJudge(out / "views", options.device, load_evaluator())
    opened = asset_folder.open_asset_leaderboard(board, out, options.device, judge)
    engine = ProcessPool(options.workers, options.retries, options.device)
    with folder_lock(out), resume_hint(command), LiveTable(Console(stderr=True)) as table:
        progress, page = asset_folder.run_asset_leaderboard(
            opened, engine, judge, command, table.update, options.films
        )
    for line in sweep_closing_lines(progress):
        print(line, file=sys.stderr)
    if (out / "leaderboard.md").is_file():
        print((out / "leaderboard.md").read_text(encoding="utf-8"))
    print(page)
    if any(not outcome.is_final for outcome in progress.failed.values()):
        raise SystemExit(INCOMPLETE)
