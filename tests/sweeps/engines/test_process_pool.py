"""What the process that all runs are forked from imports for them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from limbeck.sweeps.engines.process_pool import modules_to_preload

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


@pytest.mark.slow
def test_a_run_imports_no_library_of_its_own_to_load_a_network():
    """Importing diffusers and transformers takes longer than loading a small model."""
    words = [sys.executable, "-c", LOADING]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
