"""look at a run's solids in the browser, also while it runs"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ViewOptions:
    """What is looked at.

    runs: the run folder. port: of the page on this machine, the next free one if taken. live: wait for the run and show every new
    snapshot of it, and every stage of a recipe. device: auto, cpu, cuda, cuda:N or mps; for a run that left no snapshots.
    """

    runs: tuple[Path, ...] = ()
    port: int = 8080
    live: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        if len(self.runs) != 1:
            raise ValueError(
                f"one run folder is wanted, not {len(self.runs)}: limbeck view runs/NAME"
            )
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port is a number from 1 to 65535, not {self.port}")


def main(argv: Sequence[str]) -> None:
    """``limbeck view``: a page until Ctrl-C."""
    from limbeck.config.command_line import parse

    (what,) = parse(
        [(ViewOptions, None)],
        argv,
        "limbeck view",
        "Look at the solids of the RUN folder in the browser.",
        "runs",
    )
    serve(what, threading.Event())


def serve(what: ViewOptions, over: threading.Event) -> None:
    """The page of ``what``, until Ctrl-C or ``over``."""
    from limbeck.runs.reopen import last_stage, read_experiment, reopen_run, require_3d
    from limbeck.runs.snapshots_3d import SnapshotFolder, save_snapshot, take_snapshot
    from limbeck.runs.viewer import Viewer

    while what.live and not (last_stage(what.runs[0]) / "run.yaml").is_file():
        time.sleep(0.2)
    folder = last_stage(what.runs[0])
    experiment = read_experiment(folder)
    require_3d(folder, experiment)
    if not what.live and not SnapshotFolder(folder).steps():
        run = reopen_run(folder, what.device)
        save_snapshot(folder, experiment, run.representation, run.step)
        if not SnapshotFolder(folder).steps():
            try:
                take_snapshot(run.representation, 0)
            except ValueError as error:
                raise ValueError(
                    f"{folder}: there is nothing to look at after step {run.step}: {error}"
                ) from error
    viewer = Viewer(what.runs[0], experiment, what.port)
    print(
        f"limbeck: {what.runs[0]} at {viewer.address}; Ctrl-C ends it", file=sys.stderr, flush=True
    )
    try:
        viewer.follow(over)
    except KeyboardInterrupt:
        pass
    finally:
        viewer.server.stop()
