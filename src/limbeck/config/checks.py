"""Options of objects made in Python, checked as those that are read from text."""

from __future__ import annotations

import typing
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from limbeck.config.discovery import option_name, union_members
from limbeck.config.scheduled_numbers import Schedulable, ScheduledNumber
from limbeck.config.yaml import check_range, is_usable, join, refused_value, takes_schedule


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def check_options(config: Any, path: str = "") -> None:
    """Check the numbers and names in a frozen dataclass and in its components.

    A number that is not finite would pass comparisons such as ``lr < 0``, and one of another type
    could not be read back from run.yaml.

    Args:
        config: the dataclass.
        path: option that it is the value of, for messages.

    Raises:
        ValueError: names the first option whose value is not accepted, and what is.
    """
    hints = _hints(type(config))  # type: ignore[arg-type]  # a class has a hash
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        flag = join(path, option_name(field.name))
        if not field.init:
            continue
        if is_dataclass(value) and not isinstance(value, type):
            check_options(value, flag)
            continue
        has_type = any(_matches(value, member) for member in union_members(hint))
        if isinstance(value, ScheduledNumber):
            has_type = takes_schedule(type(config), hint)
        if not (has_type and is_usable(value, field.default)):
            raise refused_value(flag, value, hint)
        check_range(type(config), field.name, value, flag)
    if isinstance(config, Schedulable):
        try:
            config.settings()
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if path.strip("-") else str(error)) from error


def _matches(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a number, name, path or tuple of these; others all match."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return value in args
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple | list):
            return False
        hints = args[:1] * len(value) if args[1:] == (...,) else args
        return len(hints) == len(value) and all(map(_matches, value, hints))
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        numbers = (int,) if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool | ScheduledNumber)
    if hint is type(None):
        return value is None
    if hint is Path:
        return isinstance(value, Path)
    return not is_dataclass(hint) or isinstance(value, hint)  # type: ignore[arg-type]
