"""Quick leaderboards, which leave something out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from limbeck.config.command_line import value_of
from limbeck.system.notices import notify


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


def notify_lowered(board: Any, argv: Sequence[str]) -> None:
    """Give a notice for each number of the command line that a leaderboard has lowered.

    Options cannot tell a default that was given from one that was not.

    Args:
        board: options of a leaderboard.
        argv: words of the command line.
    """
    for option in fields(board):
        given, used = (
            value_of(argv, f"--{option.name.replace('_', '-')}"),
            getattr(board, option.name),
        )
        is_number = isinstance(used, int | float) and not isinstance(used, bool)
        if is_number and given is not None and float(given) != used:
            notify(f"{option.name} {given} has no effect with the other options: it is {used:g}")
