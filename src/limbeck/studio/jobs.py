"""Processes of ``limbeck`` that the Studio starts, and how they are stopped and continued."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.config.command_line import value_of
from limbeck.runs.reopen import BEST_STAGE, last_stage
from limbeck.runs.run_command import run_defaults

_TAIL = 6000  #: bytes of the output of a process that are shown
_COMPONENTS = ("--preset", "--model", "--method", "--representation")  #: what defaults depend on
_STOP_SECONDS = 20.0  #: time for a step and a checkpoint before a process is killed


@dataclass
class Job:
    """A process of ``limbeck``.

    Attributes:
        process: the process.
        output: file with all that it prints.
    """

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def has_failed(self) -> bool:
        """Whether it has ended by an error; a stop is none."""
        code = self.process.poll()
        return code is not None and 0 < code < 128

    @property
    def tail(self) -> str:
        """The end of its output, of a progress bar the last state of each line."""
        with self.output.open("rb") as file:
            file.seek(max(self.output.stat().st_size - _TAIL, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
        return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines).strip()


class Jobs:
    """The processes that one Studio has started, by kind and folder.

    Args:
        program: words that start Limbeck.
    """

    def __init__(self, program: Sequence[str] = (sys.executable, "-m", "limbeck")):
        self.program = list(program)
        self._outputs = tempfile.TemporaryDirectory(prefix="limbeck-ui-")
        self._jobs: dict[tuple[str, Path], Job] = {}
        self._count = 0

    def find(self, kind: str, folder: Path) -> Job | None:
        """The newest process of a kind for a folder."""
        return self._jobs.get((kind, folder.resolve()))

    def is_running(self, folder: Path) -> bool:
        """Whether a run in this folder was started here and goes on."""
        job = self.find("run", folder)
        return job is not None and job.is_running

    def start_run(self, words: Sequence[str], folder: Path, more: Sequence[str] = ()) -> Job:
        """Start ``limbeck run`` with these words, in this folder.

        Args:
            words: what stands behind ``limbeck run``.
            folder: the run folder.
            more: further options.

        Raises:
            ValueError: if a process that was started here writes the folder.
        """
        if self.is_running(folder):
            raise ValueError(f"{folder} is running already")
        more = [*more, "--out", str(folder)]
        is_closed = "--" in words  # prompts that begin with a dash stand behind it
        return self._start("run", [*more, *words] if is_closed else [*words, *more], folder)

    def start_export(self, folder: Path, out: Path) -> Job:
        """Start ``limbeck export`` of the first particle of a run into a new file."""
        return self._start("export", [str(folder), "--out", str(out)], folder)

    def stop(self, folder: Path) -> None:
        """Ask a run that was started here to stop: it finishes its step and saves a checkpoint."""
        job = self.find("run", folder)
        if job is not None and job.is_running:
            job.process.terminate()

    def close(self) -> None:
        """Stop all processes, which can be continued, and forget their output."""
        jobs = [job for job in self._jobs.values() if job.is_running]
        for job in jobs:
            job.process.terminate()
        for job in jobs:
            try:
                job.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
        self._outputs.cleanup()

    def _start(self, kind: str, words: Sequence[str], folder: Path) -> Job:
        self._count += 1
        output = Path(self._outputs.name) / f"{self._count}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*self.program, kind, *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"COLUMNS": "100"},
                start_new_session=True,  # Ctrl-C stops the Studio, which then stops its runs
            )
        job = Job(process, output)
        self._jobs[kind, folder.resolve()] = job
        return job


def continuing_words(folder: Path) -> list[str]:
    """The words behind ``limbeck run`` that continue a run folder.

    Args:
        folder: run folder, or the parent of the stages of a preset.

    Raises:
        ValueError: if it was not made by ``limbeck run``.
    """
    command = _last_command(last_stage(folder))
    if command[:2] != ["limbeck", "run"]:
        made_by = f"by {' '.join(command[:2])}" if command else "in Python"
        raise ValueError(f"{folder} was made {made_by}: continue it there")
    return command[2:]


def whole_run(folder: Path) -> Path:
    """The folder of a whole run: of a stage of a preset the parent, else the folder itself.

    No code of one's own is imported for it, as a list of runs must not run any: stages of a preset
    of one's own are known once they were compared.
    """
    command = _last_command(folder)
    if command[:2] != ["limbeck", "run"]:
        return folder
    if any(".py" in (value_of(command, flag) or "") for flag in _COMPONENTS):
        return folder.parent if (folder.parent / BEST_STAGE).is_file() else folder
    try:
        stages = run_defaults(command[2:]).stages
    except ValueError:  # a preset or file that is gone
        return folder
    return folder.parent if len(stages) > 1 else folder


def _last_command(folder: Path) -> list[str]:
    """The words of the command of the last session of a run folder; empty if none is known."""
    path = folder / "command.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return shlex.split(lines[-1]) if lines else []
