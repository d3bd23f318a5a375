"""Values of an options class that are out of range or have no effect, refused with their name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def check_minimums(options: Any, **minimums: float) -> None:
    """Check that numbers are not too small.

    Args:
        options: the object that has them.
        minimums: smallest value by name.

    Raises:
        ValueError: names the first that is smaller, or NaN.
    """
    for name, minimum in minimums.items():
        if not getattr(options, name) >= minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {getattr(options, name)}")


def check_positive(options: Any, *names: str) -> None:
    """Check that numbers are above 0; raises ValueError as ``check_minimums``."""
    for name in names:
        if not getattr(options, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(options, name)}")


def check_not_negative(options: Any, *names: str) -> None:
    """Check that numbers are at least 0; raises ValueError as ``check_minimums``."""
    for name in names:
        if not getattr(options, name) >= 0:
            raise ValueError(f"{name} must not be negative, not {getattr(options, name)}")


def refuse_given(options: Any, cause: str, *names: str) -> None:
    """Refuse options that have no effect beside the others.

    Args:
        options: the frozen dataclass that has them.
        cause: why, and what to do, such as "without images: leave it out".
        names: options that have no effect.

    Raises:
        ValueError: names the first that is not at its default.
    """
    defaults = {option.name: option.default for option in fields(options)}
    for name in names:
        if (value := getattr(options, name)) != defaults[name]:
            raise ValueError(f"{name} {value} has no effect {cause}")
