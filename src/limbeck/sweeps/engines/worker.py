"""A run in the worker process of a cluster: its output goes into a log beside the run folders."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from limbeck.sweeps.execution import RunOutcome, RunTask, execute_run


def redirect_output(log: Path, threads: int) -> None:
    """Append the output of this process to a file, and limit libraries that are loaded from now on.

    Args:
        log: the file.
        threads: threads of each library; 0 for one.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["OMP_NUM_THREADS"] = str(threads or 1)


def execute_on_worker(task: RunTask, log: str, folder: str) -> RunOutcome:
    """Make or continue a run on a machine that sees the files of the one that the sweep is on.

    Args:
        task: what to run.
        log: file for its output.
        folder: working folder of the sweep, which relative paths start from.
    """
    os.chdir(folder)
    redirect_output(Path(log), task.threads)
    print(f"limbeck: {task.name} on {platform.node()}", file=sys.stderr, flush=True)
    return execute_run(task)
