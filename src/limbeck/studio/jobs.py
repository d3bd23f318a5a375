"""Processes of ``limbeck`` that the Studio starts: in line, stopped, and continued."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from limbeck.config.command_line import value_of, without_options
from limbeck.runs.folder_state import OUTPUT_FILE
from limbeck.runs.reopen import BEST_STAGE, last_stage
from limbeck.runs.run_command import run_defaults
from limbeck.studio.run_output import RunOutput, is_failure

_COMPONENTS = ("--preset", "--model", "--method", "--representation")  #: what defaults depend on
_STOP_SECONDS = 20.0  #: time for a step and a checkpoint before a process is killed
_FOLLOW_SECONDS = 0.2  #: between two looks at a process


@dataclass
class Job:
    """A process of ``limbeck``.

    Attributes:
        process: the process.
        output: what it prints.
    """

    process: subprocess.Popen[bytes]
    output: RunOutput

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def has_begun(self) -> bool:
        """Whether its run has written its options, so that a stop writes a checkpoint."""
        return (last_stage(self.output.path.parent) / "run.yaml").is_file()

    @property
    def has_failed(self) -> bool:
        """Whether it has ended by an error; a stop is none."""
        code = self.process.poll()
        return code is not None and is_failure(code)

    def kill(self) -> None:
        """End it at once, with the processes that it has started."""
        with suppress(ProcessLookupError):
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class WaitingRun(NamedTuple):
    """A run that has not started yet.

    Attributes:
        folder: its folder.
        words: what stands behind ``limbeck``.
    """

    folder: Path
    words: list[str]

    @property
    def command(self) -> str:
        """The command line that does the same."""
        return shlex.join(["limbeck", *self.words])


class Jobs:
    """The processes that one Studio has started, by kind and folder, and the runs that wait.

    Args:
        program: words that start Limbeck.
        workers: runs that go on at the same time; others wait in line.
    """

    def __init__(
        self, program: Sequence[str] = (sys.executable, "-m", "limbeck"), workers: int = 1
    ):
        self.program = list(program)
        self._outputs = tempfile.TemporaryDirectory(prefix="limbeck-ui-")  # of exports
        self._jobs: dict[tuple[str, Path], Job] = {}
        self._line: dict[Path, WaitingRun] = {}
        self._followers: list[threading.Thread] = []
        self._workers, self._count, self._is_closed = workers, 0, False
        self._lock = threading.RLock()  # runs end in threads of their own

    @property
    def workers(self) -> int:
        """Runs that go on at the same time; with more, those that wait start."""
        return self._workers

    @workers.setter
    def workers(self, count: int) -> None:
        with self._lock:
            self._workers = max(count, 1)
            self._advance()

    @property
    def running(self) -> int:
        """Number of runs that go on."""
        return len(self._running())

    @property
    def saving(self) -> int:
        """Number of runs that write a checkpoint when they are stopped."""
        return sum(job.has_begun for job in self._running())

    @property
    def waiting(self) -> list[WaitingRun]:
        """The runs that wait, the next one first."""
        with self._lock:
            return list(self._line.values())

    def place(self, folder: Path) -> int:
        """Place of a run in the line, from 1; 0 if it does not wait there."""
        folders = [run.folder.resolve() for run in self.waiting]
        return folders.index(folder.resolve()) + 1 if folder.resolve() in folders else 0

    def find(self, kind: str, folder: Path) -> Job | None:
        """The newest process of a kind for a folder."""
        return self._jobs.get((kind, folder.resolve()))

    def is_running(self, folder: Path) -> bool:
        """Whether a run in this folder was started here and goes on."""
        job = self.find("run", folder)
        return job is not None and job.is_running

    def start_run(self, words: Sequence[str], folder: Path, more: Sequence[str] = ()) -> Job | None:
        """Start ``limbeck run`` with these words, in this folder, or let it wait in line.

        Args:
            words: what stands behind ``limbeck run``.
            folder: the run folder.
            more: further options.

        Returns:
            The process; None if it waits.

        Raises:
            ValueError: if a process that was started here writes the folder, or waits to.
        """
        more = [*more, "--out", str(folder)]
        words = without_options(words, "--out")  # of the command that is continued
        is_closed = "--" in words  # prompts that begin with a dash stand behind it
        words = [*more, *words] if is_closed else [*words, *more]
        with self._lock:
            if self.is_running(folder):
                raise ValueError(f"{folder} is running already")
            if self.place(folder):
                raise ValueError(f"{folder} waits in line already")
            self._jobs.pop(("run", folder.resolve()), None)  # of which the output is replaced
            self._line[folder.resolve()] = WaitingRun(folder, ["run", *words])
            self._start_waiting()
        return self.find("run", folder)

    def start_export(self, folder: Path, out: Path) -> Job:
        """Start ``limbeck export`` of the first particle of a run into a new file."""
        self._count += 1
        output = RunOutput(Path(self._outputs.name) / f"{self._count}.txt")
        return self._start(["export", str(folder), "--out", str(out)], folder, output)

    def remove(self, folder: Path) -> None:
        """Remove a run from the line."""
        with self._lock:
            self._line.pop(folder.resolve(), None)

    def stop(self, folder: Path) -> None:
        """Ask a run that was started here to stop: it finishes its step and saves a checkpoint."""
        job = self.find("run", folder)
        if job is not None and job.is_running:
            job.process.terminate()

    def close(self) -> None:
        """Stop all processes, which can be continued, and drop the runs that wait.

        A process that has nothing to save is killed, and one that does not end in time, and all
        of them after a second Ctrl-C.
        """
        with self._lock:
            self._is_closed = True
            self._line.clear()
            jobs = [job for job in self._jobs.values() if job.is_running]
        try:
            for job in jobs:
                if job.has_begun:
                    job.process.terminate()
                else:
                    job.kill()
            end = time.monotonic() + _STOP_SECONDS
            for job in jobs:
                with suppress(subprocess.TimeoutExpired):
                    job.process.wait(max(end - time.monotonic(), 0.0))
        finally:
            for job in jobs:
                if job.is_running:
                    job.kill()
            for follower in self._followers:
                follower.join()
            self._outputs.cleanup()

    def _running(self) -> list[Job]:
        with self._lock:
            runs = [job for (kind, _), job in self._jobs.items() if kind == "run"]
        return [job for job in runs if job.is_running]

    def _start_waiting(self) -> None:
        """Start the runs at the head of the line, as many as may go on at the same time."""
        while self._line and self.running < self._workers and not self._is_closed:
            run = self._line.pop(next(iter(self._line)))
            run.folder.mkdir(parents=True, exist_ok=True)
            job = self._start(run.words, run.folder, RunOutput(run.folder / OUTPUT_FILE))
            follower = threading.Thread(target=self._follow, args=(job,), daemon=True)
            self._followers = [thread for thread in self._followers if thread.is_alive()]
            self._followers.append(follower)
            follower.start()

    def _advance(self) -> None:
        """Start the runs at the head of the line; those whose folder cannot be written are lost."""
        while True:
            try:
                return self._start_waiting()
            except (OSError, ValueError) as error:
                print(f"limbeck: error: {error}", file=sys.stderr, flush=True)

    def _follow(self, job: Job) -> None:
        """Wait for the end of a run, and start the next one."""
        while job.is_running:
            job.output.shorten()
            time.sleep(_FOLLOW_SECONDS)
        job.output.end(job.process.returncode)
        with self._lock:
            self._advance()

    def _start(self, words: Sequence[str], folder: Path, output: RunOutput) -> Job:
        output.begin(["limbeck", *words])
        with output.path.open("ab") as file:
            process = subprocess.Popen(
                [*self.program, *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
                start_new_session=True,  # Ctrl-C stops the Studio, which then stops its runs
            )
        job = Job(process, output)
        self._jobs[words[0], folder.resolve()] = job
        return job


def continuing_words(folder: Path) -> list[str]:
    """The words behind ``limbeck run`` that continue a run folder, or start it again.

    Args:
        folder: run folder, or the parent of the stages of a preset.

    Raises:
        ValueError: if it was not made by ``limbeck run``.
    """
    command = _last_command(last_stage(folder)) or RunOutput(folder / OUTPUT_FILE).words
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
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    words, command = list[str](), ""
    for line in text.split("\n"):
        command += line
        try:
            words, command = shlex.split(command), ""
        except ValueError:  # the line ends within the quotes of a prompt
            command += "\n"
    return words
