"""A pool in which every run has a process of its own, so that one that dies fails alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from limbeck.sweeps.engines.base import POLL_SECONDS, STOP_SECONDS, Engine
from limbeck.sweeps.engines.worker import redirect_output
from limbeck.sweeps.execution import RunOutcome, RunTask, execute_run

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
    "limbeck.priors.image_dream_files",
    "limbeck.priors.mvdream_files",
    "limbeck.priors.sd3",
    "limbeck.priors.sdxl",
    "limbeck.priors.stable_diffusion",
    "limbeck.world.evaluator",
]
_SAFE_PATH = "PYTHONSAFEPATH"  #: environment variable that Python reads at its start


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


def _start_server() -> None:
    """Start the server that forks processes, which does not import from the current folder.

    Python looks there first, and a user's random.py would stand for Python's own.
    """
    from multiprocessing import forkserver  # which Windows lacks

    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


class ProcessPool(Engine):
    """Runs in processes of this machine: one per GPU, or per core on a CPU.

    Args:
        workers: number of processes; 0 for one per GPU or core.
        retries: as for ``Engine``.
        device: auto, cpu, cuda, cuda:N or mps; auto and cuda take all GPUs in turn.
    """

    def __init__(self, workers: int = 0, retries: int = 0, device: str = "auto"):
        super().__init__(workers, retries, device)
        self._processes: list[RunningProcess] = []
        self._slots = 1
        self._method = "spawn" if os.name == "nt" else "forkserver"
        self._context: Any = multiprocessing.get_context(self._method)

    @property
    def capacity(self) -> int:
        return self.workers or default_workers(self.device)

    def prepare(self, tasks: list[RunTask]) -> None:
        # with --workers also where fewer runs are left: a resumed run has the same threads
        self._slots = self.workers or min(self.capacity, len(tasks))
        if self._method == "forkserver":
            uses_networks = any(task.uses_network for task in tasks)
            self._context.set_forkserver_preload(modules_to_preload(uses_networks))
            _start_server()

    def has_room(self) -> bool:
        return len(self._processes) < self.capacity

    def running(self) -> set[str]:
        return {running.task.name for running in self._processes}

    def start(self, task: RunTask) -> None:
        # a search adds runs later, perhaps more at a time than there were at first
        self._slots = max(self._slots, len(self._processes) + 1)
        threads = max(1, available_cores() // self._slots)
        slot = min(set(range(self._slots)) - {running.slot for running in self._processes})
        task = replace(task, device=device_of_slot(task.device, slot), threads=threads)
        ours, theirs = self._context.Pipe()
        log = str(self.logs / f"{task.name}.log")
        process = self._context.Process(target=_run_in_process, args=(task, theirs, log))
        try:
            process.start()
        except EOFError as error:  # of multiprocessing's own process, which starts the others
            raise ChildProcessError(
                "the process that starts the runs was killed; the same command continues"
            ) from error
        theirs.close()
        self._processes.append(RunningProcess(task, slot, process, ours))

    def ended(self) -> list[RunOutcome]:
        connection.wait([running.process.sentinel for running in self._processes], POLL_SECONDS)
        ended = [running for running in self._processes if not running.process.is_alive()]
        self._processes = [running for running in self._processes if running not in ended]
        return [_outcome(running) for running in ended]

    def stop(self) -> None:
        for running in self._processes:
            running.process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for running in self._processes:
            running.process.join(max(0.0, end - time.monotonic()))
            if running.process.is_alive():
                running.process.kill()
                running.process.join()
            running.connection.close()
        self._processes = []


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
    redirect_output(Path(log), task.threads)
    threading.Thread(target=_stop_without_parent, args=(parent,), daemon=True).start()
    parent.send(execute_run(task))


def _stop_without_parent(parent: Any) -> None:
    """Wait until the sweep has died, then stop this process as SIGTERM does."""
    with suppress(EOFError, OSError):
        parent.recv()  # nothing is ever sent
    os.kill(os.getpid(), signal.SIGTERM)
