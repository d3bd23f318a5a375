"""Runs under a locale whose encoding is not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import limbeck

PROMPT = "a café — red disc"
SCRIPT = """
from limbeck.cli.main import main, process_arguments
argv = process_arguments()
assert main(argv) == 0
assert main(["report", "x"]) == 0
assert main(["run", "--config", "x/run.yaml", "--out", "x"]) == 0
"""


def test_a_run_is_written_read_and_reported_in_any_locale(tmp_path: Path) -> None:
    """In the locale C, in which Python reads and writes ASCII."""
    assert limbeck.__file__ is not None
    env = os.environ | {
        "PYTHONPATH": str(Path(limbeck.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    argv = ["run", PROMPT, "--model", "gaussians", "--steps", "2", "--device", "cpu", "--out", "x"]
    command = [sys.executable, "-c", SCRIPT, *argv]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "nothing to do" in done.stderr, done.stderr
    assert PROMPT in (tmp_path / "x" / "run.yaml").read_text(encoding="utf-8")
    assert PROMPT in (tmp_path / "x" / "report.html").read_text(encoding="utf-8")
