"""Files of cells, computed in a pool of processes; a file that exists is not computed again."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

from limbeck.config.discovery import is_own, name_of
from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.system.files import slug


class CellFile(Protocol):
    """What a leaderboard computes once."""

    @property
    def name(self) -> str:
        """Name of the row."""

    @property
    def path(self) -> Path:
        """The file of its result, within the folder of a leaderboard."""


AnyCell = TypeVar("AnyCell", bound=CellFile)


def cell_path(name: str, content: Mapping[str, Any]) -> Path:
    """The file of a cell, within the folder of a leaderboard.

    Args:
        name: name of the row.
        content: everything that the result depends on.
    """
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Path("cells") / f"{slug(name)}-{digest}.safetensors"


def code_digest(cls: type) -> str:
    """SHA-256 of the file of a class of the user's own; empty for others.

    Args:
        cls: the class.
    """
    if not is_own(cls):
        return ""
    path = Path(name_of(cls).rpartition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def compute_missing(
    cells: Sequence[AnyCell],
    folder: Path,
    pool: ProcessPoolExecutor,
    compute_file: Callable[[AnyCell, Path], object],
    what: str,
    failures: RowFailures,
) -> None:
    """Compute the cells that have no file, and say how far it is.

    Those of failed rows are left out.

    Args:
        cells: the cells.
        folder: folder of the leaderboard.
        pool: where they are computed.
        compute_file: computes a cell and writes its file, given the folder.
        what: what they are for, in the messages.
        failures: the failed rows, to which others are added.
    """
    wanted = [cell for cell in cells if cell.name not in failures]
    missing = {cell.path: cell for cell in wanted if not (folder / cell.path).exists()}
    start = time.monotonic()
    futures = {pool.submit(compute_file, cell, folder): cell for cell in missing.values()}
    for done, future in enumerate(as_completed(futures), 1):
        if failures.has_failed(futures[future].name, future):
            failures.cancel((cell.name, other) for other, cell in futures.items())
            continue
        minutes = (time.monotonic() - start) / 60
        left = minutes / done * (len(futures) - done)
        print(
            f"{what}: {done} of {len(futures)} cells, {futures[future].name}; {minutes:.1f} "
            f"minutes, about {left:.0f} minutes left of the {what}",
            file=sys.stderr,
            flush=True,
        )
