"""Addresses of the files that the page shows."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

ROUTE = "/files"  #: where the server offers the folder of the runs


def name_below(root: Path, path: Path) -> str:
    """The name of a path relative to the folder of the runs; a link keeps its own name.

    Args:
        root: folder of the runs.
        path: a path below it, or what a link to the folder leads to.
    """
    base, own = root.absolute(), path.absolute()
    if base not in own.parents:  # root is a link, and the path is one that was resolved
        base, own = root.resolve(), path.resolve()
    return own.relative_to(base).as_posix()


def file_address(root: Path, path: Path) -> str:
    """Address of a file, a new one when its content is new.

    Args:
        root: folder of the runs.
        path: a file below it.
    """
    relative = name_below(root, path)
    return f"{ROUTE}/{quote(relative)}?{path.stat().st_mtime_ns}"
