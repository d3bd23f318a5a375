"""Notices: what a user should know although the run goes on, in one line each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Notice(UserWarning):
    """A warning about the input; the command line prints it as ``limbeck: TEXT``."""


def _warn(text: str) -> None:
    warnings.warn(text, Notice, stacklevel=4)


class _Display:
    """Where notices are shown, each once.

    Args:
        show: called with the text of a notice.
    """

    def __init__(self, show: Callable[[str], None]):
        self._show = show
        self._shown: set[str] = set()

    def __call__(self, text: str) -> None:
        if text not in self._shown:
            self._shown.add(text)
            self._show(text)


_displays = [_Display(_warn)]  # the last one is used
_collectors: list[list[str]] = []


def notify(text: str) -> None:
    """Give a notice: as a warning the first time, and to every open ``collect_notices``."""
    for collected in _collectors:
        if text not in collected:
            collected.append(text)
    _displays[-1](text)


@contextmanager
def display_notices(show: Callable[[str], None]) -> Iterator[None]:
    """Pass notices given inside to ``show``, each once, instead of warning."""
    _displays.append(_Display(show))
    try:
        yield
    finally:
        _displays.pop()


@contextmanager
def collect_notices() -> Iterator[list[str]]:
    """Collect the notices given inside, also those that were shown before, for a report."""
    collected: list[str] = []
    _collectors.append(collected)
    try:
        yield collected
    finally:
        # by identity: the lists of nested collectors may be equal
        _collectors[:] = [other for other in _collectors if other is not collected]
