"""view a 3D run in the browser, also while it runs"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ViewOptions:
    """What is viewed, and where the page is served.

    Attributes:
        runs: run folder.
        port: port of the page on this machine; the next free one if it is taken.
        live: wait for the run, and show every new snapshot of it and every stage of a preset.
        device: auto, cpu, cuda, cuda:N or mps; for a run without snapshots.
    """

    runs: tuple[Path, ...] = ()
    port: int = 8080
    live: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        if len(self.runs) != 1:
            raise ValueError(f"give one run folder, not {len(self.runs)}: limbeck view runs/NAME")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be 1 to 65535, not {self.port}")


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck view``: serve the page until Ctrl-C."""
    from limbeck.config.command_line import parse

    about = "View the particles of the 3D RUN folder in the browser."
    (options,) = parse([(ViewOptions, None)], argv, "limbeck view", about, "runs")
    serve(options, threading.Event())


def serve(options: ViewOptions, stop: threading.Event) -> None:
    """Serve the page until Ctrl-C, or until ``stop`` is set."""
    from limbeck.runs.find_runs import find_folder
    from limbeck.runs.reopen import last_stage, read_experiment, require_3d
    from limbeck.runs.snapshots_3d import SnapshotFolder
    from limbeck.runs.viewer import Viewer

    root = find_folder(options.runs[0])
    if options.live and not (last_stage(root) / "run.yaml").is_file():
        message = f"limbeck: waiting for a run in {root}; stop with Ctrl-C"
        print(message, file=sys.stderr, flush=True)
    while options.live and not (last_stage(root) / "run.yaml").is_file():
        time.sleep(0.2)
    folder = last_stage(root)
    experiment = read_experiment(folder)
    require_3d(folder, experiment)
    if not options.live and not SnapshotFolder(folder).steps():
        save_missing_snapshot(folder, options.device)
    viewer = Viewer(root, experiment, options.port)
    message = f"limbeck: {root} at {viewer.address}; stop with Ctrl-C"
    print(message, file=sys.stderr, flush=True)
    try:
        viewer.follow(stop)
    except KeyboardInterrupt:
        pass
    finally:
        viewer.server.stop()


def save_missing_snapshot(folder: Path, device: str) -> None:
    """Save a snapshot from the checkpoint of a run.

    Raises:
        ValueError: if the particles are empty.
    """
    from limbeck.runs.reopen import read_experiment, reopen_run
    from limbeck.runs.snapshots_3d import SnapshotFolder, save_snapshot, take_snapshot

    run = reopen_run(folder, device)
    save_snapshot(folder, read_experiment(folder), run.representation, run.step)
    if SnapshotFolder(folder).steps():
        return
    try:
        take_snapshot(run.representation, 0)  # raises the reason
    except ValueError as error:
        message = f"{folder}: there is nothing to view after step {run.step}: {error}"
        raise ValueError(message) from error
