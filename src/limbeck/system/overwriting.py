"""Files that are written again only if they are our own."""

from __future__ import annotations

from pathlib import Path

MARK = b"limbeck"  #: in the first bytes of every report and plot
_HEAD = 1000


def refuse_foreign_file(path: Path) -> None:
    """Check that a report or a plot may be written.

    Raises:
        ValueError: if there is a folder, or a file that Limbeck did not write.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file with --out")
    if not path.exists():
        return
    with path.open("rb") as file:
        if MARK not in file.read(_HEAD):
            raise ValueError(
                f"{path} was not written by limbeck and is not overwritten; give another --out"
            )
