"""The server that forks the processes of a sweep starts in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os
from limbeck.sweeps.engines import process_pool

if __name__ == "__main__":
    process_pool._PRELOAD, process_pool._PRELOAD_NETWORKS = [], []
    pool = process_pool.ProcessPool(1)
    pool.prepare([])
    process = pool._context.Process(target=int)
    process.start()
    process.join()
    assert process.exitcode == 0 and "PYTHONSAFEPATH" not in os.environ
    print("started")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such server")
def test_a_file_named_like_a_module_of_python_does_not_stop_the_server(tmp_path: Path) -> None:
    """Python would import it from the current folder, such as a method in random.py."""
    (tmp_path / "random.py").write_text("raise ImportError('mine')")
    program = tmp_path / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text(_PROGRAM)
    found = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert found.stdout == "started\n", found.stderr
