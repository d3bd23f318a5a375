"""Runs as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from typing import Any

from limbeck.sweeps.engines.base import POLL_SECONDS, STOP_SECONDS
from limbeck.sweeps.engines.cluster import Cluster
from limbeck.sweeps.engines.process_pool import available_cores
from limbeck.sweeps.engines.worker import execute_on_worker
from limbeck.sweeps.execution import RunOutcome, RunTask
from limbeck.system.extras import require_package
from limbeck.system.files import one_line
from limbeck.system.notices import notify

LOCAL = "local"
_CURE = "give HOST:PORT of the head of a running cluster, auto, or local to start Ray here"
_ANSWER_SECONDS = 10.0  #: Ray itself would wait for minutes and then end the process


class RayCluster(Cluster):
    """Every run is a Ray task with a worker process of its own, which Ray does not retry itself.

    Args:
        address: ``local`` to start Ray on this machine and end it after the sweep, ``auto`` for the
            cluster that this machine is part of, or HOST:PORT of its head.
        workers: as for ``Cluster``; a local Ray has one per core by default.
        retries: as for ``Engine``.
        device: as for ``Cluster``.
        cpus: cores of a run.
        gpus: GPUs of a run, 0.5 for two runs on each; None for one if the cluster has any and the
            device is auto or cuda.

    Raises:
        ModuleNotFoundError: if Ray is not installed.
        ValueError: if nothing answers at the address.
    """

    def __init__(
        self,
        address: str,
        workers: int = 0,
        retries: int = 0,
        device: str = "auto",
        cpus: int = 1,
        gpus: float | None = None,
    ):
        require_package("ray")
        super().__init__(workers, retries, device, cpus, gpus)
        self.address = address
        _check_address(address)
        self._function: Any = None

    @property
    def device_here(self) -> str | None:
        return self.device if self.address == LOCAL else None

    @property
    def capacity(self) -> int:
        return self.workers or self._room()

    def prepare(self, tasks: list[RunTask]) -> None:
        self._connect()
        import ray

        gpus = self._gpus_per_run()
        if self._room() == 0:
            problem = (
                f"no machine of the Ray cluster has {self.cpus} cores and {gpus:g} GPUs, which "
                "--cpus-per-run and --gpus-per-run ask for"
            )
            if self.address == LOCAL:
                raise ValueError(problem)
            notify(f"{problem}: the runs wait until one joins")
        self._function = ray.remote(
            max_calls=1,  # a fresh process for each run, as in the pool
            max_retries=0,
            num_cpus=self.cpus,
            num_gpus=gpus,
        )(execute_on_worker)

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        options: dict[str, Any] = {"address": self.address}
        if self.address == LOCAL:
            cores = self.workers * self.cpus if self.workers else available_cores()
            options |= {"num_cpus": cores, "include_dashboard": False}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except Exception as error:  # of many kinds
            raise ValueError(f"--ray {self.address}: {one_line(error)}; {_CURE}") from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would exit without a hint

    def _gpus_per_run(self) -> float:
        import ray

        if self.gpus is not None or self.device == "cpu":
            return self.gpus or 0.0
        return 1.0 if ray.cluster_resources().get("GPU") else 0.0

    def _room(self) -> int:
        """Number of runs that the cluster has cores and GPUs for."""
        self._connect()
        import ray

        gpus, room = self._gpus_per_run(), 0
        for node in ray.nodes():
            free = node["Resources"] if node["Alive"] else {}
            fits = free.get("CPU", 0) // self.cpus
            room += int(min(fits, free.get("GPU", 0) / gpus) if gpus else fits)
        return room

    def submit(self, task: RunTask, log: str, folder: str) -> Any:
        return self._function.remote(task, log, folder)

    def ended(self) -> list[RunOutcome]:
        import ray

        names = {run.handle: name for name, run in self.queued.items()}
        ready, _ = ray.wait(list(names), num_returns=len(names), timeout=POLL_SECONDS)
        return [self._outcome(names[handle]) for handle in ready]

    def _outcome(self, name: str) -> RunOutcome:
        """What a task that has ended returned, or what Ray says."""
        import ray
        from ray import exceptions

        try:
            outcome = ray.get(self.queued.pop(name).handle)
        except exceptions.OutOfMemoryError as error:
            return RunOutcome(name, "out of memory", one_line(error))
        except exceptions.RayTaskError as error:
            return RunOutcome(name, "error", f"it could not start: {one_line(error.cause)}")
        except exceptions.RayError as error:
            why = "killed, perhaps because memory ran out"
            if not isinstance(error, exceptions.WorkerCrashedError):
                why = f"lost by Ray: {one_line(error)}"
            return RunOutcome(name, "killed", why)
        assert isinstance(outcome, RunOutcome)
        return outcome

    def stop(self) -> None:
        import ray

        handles = [run.handle for run in self.queued.values()]
        for handle in handles:
            ray.cancel(handle)  # reaches the run as Ctrl-C does
        if handles:
            with suppress(ray.exceptions.RayError):
                ray.wait(handles, num_returns=len(handles), timeout=STOP_SECONDS)
        self.queued.clear()
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse an address that is no HOST:PORT, or where nothing answers."""
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not host or "/" in host:
        raise ValueError(f"--ray {address} is no address of a cluster: {_CURE}")
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"--ray {address} does not answer ({one_line(error)}): {_CURE}") from error
