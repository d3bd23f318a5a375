"""A pool in which every run has a process of its own, so that one that dies fails alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from limbeck.sweeps.execution import RunOutcome, RunTask, execute_run

_POLL_SECONDS = 0.5  #: between two looks at the progress of the runs
_STOP_SECONDS = 120.0  #: a run that has not stopped so long after SIGTERM is killed
#: imported once, by the process that the others are forked from; a step needs torch._dynamo
_PRELOAD = [
    "limbeck.sweeps.execution",
    "limbeck.runs.report.pages",
    "matplotlib.backends.backend_svg",
    "torch._dynamo",
]
#: the same for runs with a network; importing diffusers takes longer than loading a small model
_PRELOAD_NETWORKS = [
    "limbeck.priors.deepfloyd_if",
    "limbeck.priors.flux",
    "limbeck.priors.hub",
    "limbeck.priors.sd3",
    "limbeck.priors.sdxl",
    "limbeck.priors.stable_diffusion",
    "limbeck.world.evaluator",
]


@dataclass
class RunningProcess:
    """A run in its process.

    Attributes:
        task: the run.
        slot: number of the worker, which decides its device.
        process: the process.
        connection: gets its outcome.
        started_at: time of the start, of ``time.monotonic``.
    """

    task: RunTask
    slot: int
    process: BaseProcess
    connection: Any
    started_at: float = field(default_factory=time.monotonic)


def default_workers(device: str) -> int:
    """One run per GPU, or per core on a CPU.

    Args:
        device: as for ``limbeck.load``.
    """
    return max(1, torch.cuda.device_count()) if uses_gpus(device) else available_cores()


def available_cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def uses_gpus(device: str) -> bool:
    """Whether runs are to be spread over the GPUs: for auto and cuda, if there are any."""
    return device in ("auto", "cuda") and torch.cuda.is_available()


def device_of_slot(device: str, slot: int) -> str:
    """The device of a worker: GPUs in turn for auto and cuda, else the one that was asked for."""
    return f"cuda:{slot % torch.cuda.device_count()}" if uses_gpus(device) else device


def modules_to_preload(uses_networks: bool) -> list[str]:
    """Modules that every run needs, imported once: also the components that planning has imported.

    Args:
        uses_networks: whether some of the models are networks.
    """
    planned = [name for name in sys.modules if name.startswith("limbeck.")]
    return [*_PRELOAD, *(_PRELOAD_NETWORKS if uses_networks else []), *sorted(planned)]


class ProcessPool:
    """Runs tasks in processes, at most ``workers`` at a time.

    Args:
        workers: number of processes.
        logs: folder for the output of each run.
        retries: further attempts for a run that was killed, ran out of memory or failed.
        uses_networks: whether some of the models are networks; their modules are imported once.

    Attributes:
        waiting: the runs to start, in order; may be changed while the others run.
        running: the runs that are in progress.
        attempts: attempts by name of the run.
    """

    def __init__(self, workers: int, logs: Path, retries: int = 0, uses_networks: bool = True):
        self.workers, self.logs, self.retries = workers, logs, retries
        self.waiting: deque[RunTask] = deque()
        self.running: list[RunningProcess] = []
        self.attempts: dict[str, int] = {}
        method = "spawn" if os.name == "nt" else "forkserver"
        self.context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload(modules_to_preload(uses_networks))

    def run(
        self, tasks: Sequence[RunTask], on_poll: Callable[[], None] = lambda: None
    ) -> Generator[RunOutcome, None, None]:
        """Run all tasks; yields the outcome of each, retries done, in the order they end.

        Args:
            tasks: what to run.
            on_poll: called several times a second.
        """
        self.waiting = deque(tasks)
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.workers:
                    self._start(self.waiting.popleft())
                on_poll()
                for ended, outcome in self._ended():
                    tried = self.attempts[outcome.name]
                    if outcome.may_retry and tried <= self.retries:
                        self.waiting.append(ended.task)
                        continue
                    told = f" ({tried} attempts)" if tried > 1 and outcome.message else ""
                    yield replace(outcome, message=outcome.message + told)
        except EOFError as error:  # of multiprocessing's own process, which starts the others
            raise ChildProcessError(
                "the process that starts the runs was killed; the same command continues"
            ) from error
        finally:
            self.stop()

    def stop(self) -> None:
        """Let all running processes write a checkpoint and stop; waits for them."""
        for running in self.running:
            running.process.terminate()
        end = time.monotonic() + _STOP_SECONDS
        for running in self.running:
            running.process.join(max(0.0, end - time.monotonic()))
            if running.process.is_alive():
                running.process.kill()
                running.process.join()
            running.connection.close()
        self.running = []

    def _start(self, task: RunTask) -> None:
        slot = min(set(range(self.workers)) - {running.slot for running in self.running})
        task = replace(task, device=device_of_slot(task.device, slot))
        ours, theirs = self.context.Pipe()
        log = str(self.logs / f"{task.name}.log")
        process = self.context.Process(target=_run_in_process, args=(task, theirs, log))
        process.start()
        theirs.close()
        self.attempts[task.name] = self.attempts.get(task.name, 0) + 1
        self.running.append(RunningProcess(task, slot, process, ours))

    def _ended(self) -> list[tuple[RunningProcess, RunOutcome]]:
        """The runs that have ended, after waiting for one for a moment."""
        connection.wait([running.process.sentinel for running in self.running], _POLL_SECONDS)
        ended = [running for running in self.running if not running.process.is_alive()]
        self.running = [running for running in self.running if running not in ended]
        return [(running, _outcome(running)) for running in ended]


def _outcome(running: RunningProcess) -> RunOutcome:
    """What a process that has ended sent, or what its exit code says."""
    outcome = None
    with suppress(EOFError, OSError):
        if running.connection.poll():
            outcome = running.connection.recv()
    running.process.join()
    running.connection.close()
    code = running.process.exitcode
    if isinstance(outcome, RunOutcome):
        return outcome
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        why = " from outside, perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return RunOutcome(running.task.name, "killed", f"killed by {name}{why}")
    return RunOutcome(running.task.name, "killed", f"the process ended with exit code {code}")


def _run_in_process(task: RunTask, parent: Any, log: str) -> None:
    """Make a run in this process, whose output goes into a file."""
    if os.name != "nt":
        os.setsid()  # Ctrl-C reaches the sweep only, which lets its runs write a checkpoint
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["OMP_NUM_THREADS"] = str(task.threads or 1)  # of libraries loaded from now on
    threading.Thread(target=_stop_without_parent, args=(parent,), daemon=True).start()
    parent.send(execute_run(task))


def _stop_without_parent(parent: Any) -> None:
    """Wait until the sweep has died, then stop this process as SIGTERM does."""
    with suppress(EOFError, OSError):
        parent.recv()  # nothing is ever sent
    os.kill(os.getpid(), signal.SIGTERM)
