"""Addresses of the files that the page shows."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

ROUTE = "/files"  #: where the server offers the folder of the runs


def file_address(root: Path, path: Path) -> str:
    """Address of a file, a new one when its content is new.

    Args:
        root: folder of the runs.
        path: a file below it.
    """
    relative = path.resolve().relative_to(root.resolve()).as_posix()
    return f"{ROUTE}/{quote(relative)}?{path.stat().st_mtime_ns}"
