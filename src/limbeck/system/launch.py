"""What torchrun says about the processes that it has started."""

from __future__ import annotations

import os


def launched_processes() -> int:
    """Number of processes that torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_index() -> int:
    """Number of this process among them, from 0; process 0 writes files and messages."""
    return int(os.environ.get("RANK", "0")) if launched_processes() > 1 else 0
