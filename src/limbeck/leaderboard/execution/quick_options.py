"""Quick leaderboards, which leave something out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any


def refuse_with_quick(board: Any, names: Sequence[str]) -> None:
    """Refuse options of what a quick leaderboard leaves out.

    Args:
        board: options of a leaderboard.
        names: those that are 0 in a quick one.

    Raises:
        ValueError: if one is given.
    """
    defaults = {option.name: option.default for option in fields(board)}
    for name in names:
        if getattr(board, name) not in (0, defaults[name]):
            raise ValueError(
                f"{name} has no effect with quick, which leaves it out: leave out one of them"
            )
