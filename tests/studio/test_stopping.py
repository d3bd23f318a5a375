"""The Studio ends soon after Ctrl-C and SIGTERM, with the exit code of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

pytest.importorskip("nicegui")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
#: CPU time of the end, of that of the start: about 0.06, and 0.29 without ``gc.freeze`` in
#: ``serve_studio``; other processes of a busy machine change little of it
SHARE = 0.15

StartStudio = Callable[[Path], AbstractContextManager[tuple["subprocess.Popen[str]", str]]]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_the_studio_ends_at_once(
    tmp_path: Path, start_studio: StartStudio, number: signal.Signals, code: int
) -> None:
    with start_studio(tmp_path) as (process, _):
        before = seconds = processor_seconds(process.pid)
        process.send_signal(number)
        while process.poll() is None:
            seconds = max(seconds, processor_seconds(process.pid))
            time.sleep(0.01)
        _, errors = process.communicate()
    assert process.returncode == code and errors.endswith("\nlimbeck: stopped\n")
    assert seconds - before < SHARE * before


def processor_seconds(number: int) -> float:
    """Processor time of a process; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
