"""Rows of a leaderboard that failed: the others go on, and failures are said at the end."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any


class RowFailures:
    """What stopped rows, by their names."""

    def __init__(self) -> None:
        self._errors: dict[str, Exception] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._errors

    def has_failed(self, name: str, future: Future[Any]) -> bool:
        """Whether a part of a row failed, or was not computed because another part of it did.

        Args:
            name: name of the row.
            future: the part, which has ended.

        Raises:
            BrokenExecutor: if a process was killed: no row can go on then.
        """
        if future.cancelled():
            return True
        error = future.exception()
        if error is None:
            return False
        if isinstance(error, BrokenExecutor) or not isinstance(error, Exception):
            raise error
        self._errors.setdefault(name, error)
        return True

    def cancel(self, parts: Iterable[tuple[str, Future[Any]]]) -> None:
        """Do not begin the other parts of failed rows.

        Args:
            parts: name of the row of each part, and the part.
        """
        for name, future in parts:
            if name in self:
                future.cancel()

    def raise_if_any(self, options_file: Path) -> None:
        """Say which rows failed and why.

        Args:
            options_file: file of the options of the leaderboard, which names the rows.

        Raises:
            ValueError: if all failures have a message for the user; else the first other one.
        """
        for error in self._errors.values():
            if not isinstance(error, ValueError):
                raise error
        if self._errors:
            reasons = "; ".join(f"{name}: {error}" for name, error in self._errors.items())
            raise ValueError(
                f"rows without a result: {reasons}. The table in {options_file.parent} has all "
                "others; the same command tries these again, or delete them from methods in "
                f"{options_file}"
            )
