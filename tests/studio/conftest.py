"""A running Studio."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest


class Studio(NamedTuple):
    """A running ``limbeck ui``.

    Attributes:
        address: of its page.
        folder: where it was started; the runs are in runs/ there.
    """

    address: str
    folder: Path


@pytest.fixture(scope="module")
def studio_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """``limbeck ui`` in an empty folder, stopped by Ctrl-C, which must leave no traceback."""
    pytest.importorskip("nicegui")
    from limbeck.studio.server import HOST, free_port

    folder = tmp_path_factory.mktemp("studio")
    port = free_port(18090)
    command = [sys.executable, "-m", "limbeck", "ui", "--no-browser", "--port", str(port)]
    # the library behaves differently in tests
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        address = f"http://{HOST}:{port}"
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except OSError:
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.1)
        yield Studio(address, folder)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert errors.startswith(f"limbeck: Studio at {address}; stop with Ctrl-C")
