"""Runs under a locale whose encoding is not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import limbeck

PROMPT = "a café — red disc"


def limbeck_in_ascii(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``limbeck`` in the locale C, in which Python reads and writes ASCII."""
    assert limbeck.__file__ is not None
    env = os.environ | {
        "PYTHONPATH": str(Path(limbeck.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONWARNDEFAULTENCODING": "1",
    }
    command = [sys.executable, "-W", "error::EncodingWarning:limbeck", "-m", "limbeck", *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, encoding="utf-8")


def test_a_run_is_written_read_and_reported_in_any_locale(tmp_path: Path) -> None:
    run = ["run", PROMPT, "--model", "gaussians", "--steps", "2", "--device", "cpu", "--out", "x"]
    for argv in (run, ["report", "x"]):
        done = limbeck_in_ascii(*argv, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert PROMPT in (tmp_path / "x" / "run.yaml").read_text(encoding="utf-8")
    assert PROMPT in (tmp_path / "x" / "report.html").read_text(encoding="utf-8")
    finished = limbeck_in_ascii("run", "--config", "x/run.yaml", "--out", "x", cwd=tmp_path)
    assert finished.returncode == 0 and "nothing to do" in finished.stderr
