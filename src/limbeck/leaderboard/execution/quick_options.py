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


def limit_with_quick(board: Any, **largest: float) -> None:
    """Lower options of a quick leaderboard to what it takes at most.

    Args:
        board: options of a leaderboard, which are changed.
        largest: largest value by option.

    Raises:
        ValueError: if a larger value is given, which would be ignored.
    """
    defaults = {option.name: option.default for option in fields(board)}
    for name, most in largest.items():
        value = getattr(board, name)
        if value > most and value != defaults[name]:
            raise ValueError(
                f"{name} {value:g} has no effect with quick, which takes at most {most:g}: leave "
                "out one of them"
            )
        object.__setattr__(board, name, min(value, most))
