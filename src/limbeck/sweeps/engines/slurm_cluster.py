"""Runs as jobs of Slurm, which submitit submits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

from limbeck.sweeps.engines.base import POLL_SECONDS, STOP_SECONDS
from limbeck.sweeps.engines.cluster import Cluster, QueuedRun
from limbeck.sweeps.engines.worker import execute_on_worker
from limbeck.sweeps.execution import RunOutcome, RunTask
from limbeck.system.extras import require_package
from limbeck.system.files import one_line
from limbeck.system.notices import notify

_COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scancel", "sinfo")
_CHECK_SECONDS = 20.0  #: between two calls of sacct, which alone knows of killed jobs
_SIGNAL_SECONDS = 90  #: before the time limit, a signal makes a run write a checkpoint and stop
_CAPACITY = 8  #: settings that a search tries at a time, as the size of the queue is not known
_NO_REQUEUE = {"no-requeue": True}  # else Slurm would repeat a run that lost its node unseen
_CONTINUE = "the same command continues it from its last checkpoint"

#: how a job that left no outcome ended, by the first word of its state: kind of the outcome and
#: message. What somebody canceled is not retried.
_ENDS = {
    "TIMEOUT": ("killed", "killed at its time limit: give --minutes-per-run, or {}"),
    "DEADLINE": ("killed", "killed at its deadline; {}"),
    "OUT_OF_MEMORY": (
        "out of memory",
        "killed, as its memory ran out: set SBATCH_MEM_PER_NODE=32G or so before the command",
    ),
    "CANCELLED": ("interrupted", "canceled from outside, perhaps by scancel; {}"),
    "PREEMPTED": ("killed", "killed for a job of higher priority; {}"),
    "NODE_FAIL": ("killed", "killed, as its machine failed; {}"),
    "BOOT_FAIL": ("killed", "not started, as its machine failed; {}"),
}
_UNKNOWN_END = ("killed", "killed, perhaps because memory ran out")


class SlurmCluster(Cluster):
    """Every run is a job with one task; jobs go on if this process is killed.

    Args:
        retries: as for ``Engine``.
        device: as for ``Cluster``.
        cpus: cores of a run.
        gpus: GPUs of a run; None for one if the partition has any and the device is not cpu.
        partition: where the jobs go; empty for the default of the cluster.
        minutes: time limit of a run; 0 for that of the partition.

    Raises:
        ModuleNotFoundError: if submitit is not installed.
        ValueError: if the commands of Slurm are missing, it keeps no account of jobs, or the
            number of GPUs is no integer.
    """

    def __init__(
        self,
        retries: int = 0,
        device: str = "auto",
        cpus: int = 1,
        gpus: float | None = None,
        partition: str = "",
        minutes: int = 0,
    ):
        super().__init__(0, retries, device, cpus, gpus)
        self.partition, self.minutes = partition, minutes
        if gpus is not None and gpus != int(gpus):
            raise ValueError(f"--gpus-per-run {gpus:g}: Slurm gives whole GPUs; give an integer")
        for name in _COMMANDS:
            if shutil.which(name) is None:
                raise ValueError(
                    f"--slurm needs {name}, which is not on PATH: give the command on a machine "
                    "of the cluster that submits jobs, or leave --slurm out"
                )
        require_package("submitit")
        _call("sacct", "--noheader", "--allocations", "--jobs=1")
        self._executor: Any = None
        self._checked_at = 0.0

    @property
    def capacity(self) -> int:
        return _CAPACITY

    def prepare(self, tasks: list[RunTask]) -> None:
        import submitit

        self._refuse_queued(tasks)
        limits: dict[str, Any] = {"time": None, "signal_delay_s": _SIGNAL_SECONDS}
        if self.minutes:
            delay = min(_SIGNAL_SECONDS, self.minutes * 30)
            limits = {"time": self.minutes, "signal_delay_s": delay}
        if gpus := self._gpus_per_run():
            limits["gpus_per_node"] = gpus
        self._executor = submitit.SlurmExecutor(self.logs.absolute() / "slurm")
        self._executor.update_parameters(
            **limits,
            partition=self.partition or None,
            cpus_per_task=self.cpus,
            srun_args=[f"--cpus-per-task={self.cpus}"],  # not inherited since Slurm 22.05
            additional_parameters=_NO_REQUEUE,
        )
        notify(
            "the runs are jobs of Slurm, which `squeue --me` lists: Ctrl-C cancels them; they go "
            "on if this command is killed"
        )

    def _gpus_per_run(self) -> int:
        if self.gpus is not None or self.device == "cpu":
            return int(self.gpus or 0)
        where = [f"--partition={self.partition}"] if self.partition else []
        return int("gpu" in _call("sinfo", "--noheader", "--format=%G", *where))

    def _refuse_queued(self, tasks: list[RunTask]) -> None:
        """Refuse to submit a run twice that an earlier command, which was killed, left behind."""
        lines = _call("squeue", "--me", "--noheader", "--format=%i %k").splitlines()
        jobs = {log: number for number, _, log in (line.strip().partition(" ") for line in lines)}
        left = [jobs[log] for task in tasks if (log := self._log_of(task.name)) in jobs]
        if left:
            raise ValueError(
                f"{len(left)} runs of this sweep are still in the queue of Slurm, from a command "
                f"that was killed: wait until they end, or cancel them: scancel {' '.join(left)}"
            )

    def _log_of(self, name: str) -> str:
        return str((self.logs / f"{name}.log").absolute())

    def has_room(self) -> bool:
        refused = any(run.handle is None for run in self.queued.values())
        return not refused and super().has_room()

    def submit(self, task: RunTask, log: str, folder: str) -> Any:
        """Submit a job; None if Slurm takes no more of them for now."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self._executor.update_parameters(job_name=task.name, comment=log)
        try:
            return self._executor.submit(execute_in_job, task, log, folder)
        except (FailedJobError, FailedSubmissionError) as error:
            message = f"sbatch refuses the job: {one_line(error)}"
            if not any(run.handle is not None for run in self.queued.values()):
                raise ValueError(message) from error
            notify(f"{message}; the other runs are submitted when one has ended")
            return None

    def ended(self) -> list[RunOutcome]:
        time.sleep(POLL_SECONDS)
        self._ask_slurm()
        jobs = {name: run for name, run in self.queued.items() if run.handle is not None}
        names = [name for name, run in jobs.items() if _has_ended(run.handle)]
        outcomes = [_outcome(self.queued.pop(name)) for name in names]
        for run in self.queued.values() if outcomes else ():
            if run.handle is None:
                run.handle = self.submit(run.task, str(run.log), os.getcwd())
        return outcomes

    def _ask_slurm(self) -> None:
        """Ask for the states of all jobs at once; submitit alone would ask ever less often."""
        jobs = [run.handle for run in self.queued.values() if run.handle is not None]
        if jobs and time.monotonic() - self._checked_at > _CHECK_SECONDS:
            jobs[0].get_info(mode="force")
            self._checked_at = time.monotonic()

    def stop(self) -> None:
        runs = [run for run in self.queued.values() if run.handle is not None]
        for run in runs:
            run.handle.cancel(check=False)  # reaches the run as SIGTERM
        end = time.monotonic() + STOP_SECONDS
        while not all(_has_ended(run.handle) for run in runs) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            self._ask_slurm()
        self.queued.clear()


def execute_in_job(task: RunTask, log: str, folder: str) -> RunOutcome:
    """What a job of Slurm calls: ``execute_on_worker``, which stops before the time limit.

    Args:
        task: what to run.
        log: file for its output.
        folder: working folder of the sweep.
    """
    from submitit.core.job_environment import JobEnvironment

    warned = list[int]()

    def stop(number: int, frame: Any) -> None:
        warned.append(number)
        os.kill(os.getpid(), signal.SIGTERM)  # writes a checkpoint after this step

    signal.signal(signal.Signals[f"SIG{JobEnvironment.USR_SIG}"], stop)
    outcome = execute_on_worker(task, log, folder)
    if warned and outcome.kind == "interrupted":
        why = f"stopped after a checkpoint, shortly before its time limit; {_CONTINUE}"
        return RunOutcome(task.name, "killed", why)
    return outcome


def _has_ended(job: Any) -> bool:
    return bool(job.done()) or job.state.startswith("PREEMPTED")  # submitit expects a requeue


def _outcome(run: QueuedRun) -> RunOutcome:
    """What a job that has ended returned, or what Slurm says of it."""
    from submitit.core.utils import UncompletedJobError

    job, name = run.handle, run.task.name
    state = job.state.split(" ")[0]
    if job.paths.result_pickle.exists() or state not in (*_ENDS, "FAILED"):
        with suppress(UncompletedJobError):
            outcome = job.result()  # waits for a moment for a file on another machine
            _remove_files(job)
            assert isinstance(outcome, RunOutcome)
            return outcome
    stderr, has_started = job.stderr() or "", run.has_started()
    with suppress(OSError), run.log.open("a", encoding="utf-8") as file:
        file.write(stderr)
    if state in _ENDS or has_started:
        kind, why = _ENDS.get(state, _UNKNOWN_END)
        return RunOutcome(name, kind, f"{why.format(_CONTINUE)} (job {job.job_id})")
    last = stderr.strip().rpartition("\n")[2] or f"state {state}"
    return RunOutcome(name, "error", f"job {job.job_id} could not start: {last}")


def _remove_files(job: Any) -> None:
    """Remove what a job with an outcome leaves; its output is in the log of the run."""
    paths = job.paths
    for path in (paths.submitted_pickle, paths.result_pickle, paths.submission_file):
        path.unlink(missing_ok=True)
    for path in (paths.stdout, paths.stderr):
        path.unlink(missing_ok=True)


def _call(*command: str) -> str:
    """Output of a command of Slurm; ValueError with what it says if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ValueError(f"--slurm: {command[0]} fails, and a sweep needs it: {reason}")
    return done.stdout
