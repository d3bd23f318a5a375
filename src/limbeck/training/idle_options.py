"""Options of a representation that were given and have no effect, said in a notice."""

from __future__ import annotations

from dataclasses import is_dataclass
from operator import attrgetter
from typing import Any

from limbeck.config.discovery import component_name
from limbeck.representations.base import RepresentationConfig
from limbeck.system.notices import notify


def notify_idle_options(chosen: RepresentationConfig, default: RepresentationConfig) -> None:
    """Give a notice of each option that was given although it has no effect beside the others.

    Args:
        chosen: the representation with the options that were given.
        default: the one that they change, whose own options are not named: those of a preset, of a
            file or of the class.
    """
    for name, cause in chosen.idle_options.items():
        base = default if type(chosen) is type(default) else type(chosen)()
        if (value := attrgetter(name)(chosen)) != attrgetter(name)(base):
            notify(f"{name} {_text(value)} has no effect {cause}")


def _text(value: Any) -> str:
    """A value as on a command line."""
    if is_dataclass(value):
        return component_name(type(value))
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
