"""A running Studio."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


@contextmanager
def running_studio(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``limbeck ui`` in a folder and the address of its page; killed if it is not ended inside."""
    from limbeck.studio.server import HOST, free_port

    port = free_port(18090)
    command = [sys.executable, "-m", "limbeck", "ui", "--no-browser", "--port", str(port)]
    # the library behaves differently in tests
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        address = f"http://{HOST}:{port}"
        end = time.monotonic() + 120
        try:
            while True:
                try:
                    urllib.request.urlopen(address, timeout=5)
                    break
                except OSError:
                    assert time.monotonic() < end and process.poll() is None
                    time.sleep(0.1)
            yield process, address
        finally:
            process.kill()


@pytest.fixture(scope="session")
def start_studio() -> Callable[[Path], AbstractContextManager[tuple[subprocess.Popen[str], str]]]:
    """Starts ``limbeck ui`` in a folder."""
    pytest.importorskip("nicegui")
    return running_studio


@pytest.fixture(scope="module")
def studio_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """``limbeck ui`` in an empty folder, stopped by Ctrl-C, which must leave no traceback."""
    pytest.importorskip("nicegui")
    folder = tmp_path_factory.mktemp("studio")
    with running_studio(folder) as (process, address):
        yield Studio(address, folder)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert errors.startswith(f"limbeck: Studio at {address}; stop with Ctrl-C")
