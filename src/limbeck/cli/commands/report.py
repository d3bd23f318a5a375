"""write one HTML page over one or several run folders"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reporting:
    """folders: run folders to show side by side. out: the page to write, report.html in the first folder if left out."""

    folders: tuple[Path, ...] = ()
    out: Path | None = None


def main(argv: Sequence[str]) -> None:
    """``limbeck report``: one page over run folders."""
    from limbeck.config.command_line import parse

    (wanted,) = parse(
        [(Reporting, None)],
        argv,
        "limbeck report",
        "Write one HTML page over run FOLDERs.",
        "folders",
    )
    if not wanted.folders:
        raise ValueError("a run folder is missing: limbeck report runs/NAME [runs/OTHER ...]")
    for folder in wanted.folders:
        if not folder.is_dir():
            raise ValueError(f"no run folder {folder}")

    from limbeck.runs.report.pages import write

    print(write(list(wanted.folders), wanted.out))
