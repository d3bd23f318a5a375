"""What the process that all runs are forked from imports for them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest

from limbeck.runs.recording_options import DEFAULT_RECORDING
from limbeck.sweeps.engines.process_pool import ProcessPool, modules_to_preload
from limbeck.sweeps.execution import RunTask

LOADING = """
import importlib, sys
from limbeck.sweeps.engines.process_pool import modules_to_preload
for name in modules_to_preload(uses_networks=True):
    importlib.import_module(name)
before = set(sys.modules)
from limbeck.priors.loading import load
load("world", "cpu")
new = {".".join(name.split(".")[:2]) for name in set(sys.modules) - before}
print(*sorted(name for name in new if not name.startswith(("diffusers.schedulers", "encodings"))))
"""


def test_what_is_imported_once_exists_and_has_the_components_of_the_runs():
    plain, networks = modules_to_preload(False), modules_to_preload(True)
    assert all(importlib.util.find_spec(name) is not None for name in networks)
    assert set(plain) <= set(networks) and "limbeck.priors.sdxl" in networks
    assert {name for name in sys.modules if name.startswith("limbeck.")} <= set(plain)


class NoProcess:
    """Stands for a process that is never started."""

    def __init__(self, target, args):
        self.threads = args[0].threads

    def start(self) -> None:
        return None


@pytest.mark.parametrize(("workers", "threads"), [(0, [8, 4, 2, 2]), (4, [2, 2, 2, 2])])
def test_runs_that_a_search_adds_later_use_all_workers(
    workers: int, threads: list[int], monkeypatch: pytest.MonkeyPatch
):
    """With --workers a run has the same threads however many are left, as bits depend on them."""
    module = "limbeck.sweeps.engines.process_pool"
    monkeypatch.setattr(f"{module}.available_cores", lambda: 8)
    monkeypatch.setattr(f"{module}.default_workers", lambda device: 4)
    pool = ProcessPool(workers=workers, device="cpu")
    monkeypatch.setattr(pool._context, "Process", NoProcess, raising=False)
    task = RunTask("first", (), "cpu", 0, DEFAULT_RECORDING, "")
    pool.prepare([task])
    for name in ("first", "b", "c", "d"):
        assert pool.has_room()
        pool.start(replace(task, name=name))
    assert not pool.has_room()
    assert [running.slot for running in pool._processes] == [0, 1, 2, 3]
    assert [running.process.threads for running in pool._processes] == threads


@pytest.mark.slow
def test_a_run_imports_no_library_of_its_own_to_load_a_network():
    """Importing diffusers and transformers takes longer than loading a small model."""
    words = [sys.executable, "-c", LOADING]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
