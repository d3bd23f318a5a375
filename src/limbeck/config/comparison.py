"""Whether two configurations are the same: differences, fingerprints, paths from any folder."""

from __future__ import annotations

import hashlib
import json
import os
import typing
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from limbeck.config.discovery import field_name, options_of
from limbeck.config.yaml import join, options

T = TypeVar("T")

_MODEL_FILES = ("model_index.json", "config.json")  #: of a folder that is a model


def absolute_paths(config: T) -> T:
    """Return a configuration with absolute paths, which means the same from any folder.

    Args:
        config: a frozen dataclass. Its options named by ``path_options``, a class attribute, are
            text that may be a path, such as the name of a model.
    """
    changes: dict[str, Any] = {}
    for name in options_of(type(config)):
        value = getattr(config, field_name(name))
        is_name = name in getattr(config, "path_options", ())
        absolute = _absolute_name(value) if is_name else _absolute(value)
        if absolute is not value:
            changes[field_name(name)] = absolute
    return replace(typing.cast(Any, config), **changes) if changes else config


def _absolute(value: Any) -> Any:
    """A value with absolute paths; the value itself if it has no relative ones."""
    if isinstance(value, Path):
        return value if value.is_absolute() else value.expanduser().absolute()
    if isinstance(value, tuple):
        absolute = tuple(map(_absolute, value))
        return value if all(a is b for a, b in zip(value, absolute, strict=True)) else absolute
    return absolute_paths(value) if is_dataclass(value) else value


def _absolute_name(text: str) -> str:
    """The name of a model, absolute if it is a relative path."""
    kind, name = ("dataset:", text[8:]) if text.startswith("dataset:") else ("", text)
    path = os.path.expanduser(name)
    # os.path says no to a name that is no possible path, where Path raises an error
    is_folder = any(os.path.isfile(os.path.join(path, file)) for file in _MODEL_FILES)
    if not kind and not (is_folder or "/" in name or name.endswith(".safetensors")):
        return text
    return f"{kind}{os.path.abspath(path)}" if name and os.path.exists(path) else text


def fingerprint(config: Any) -> str:
    """Eight hexadecimal digits of a frozen dataclass, which differ where any option differs."""
    text = json.dumps(options(absolute_paths(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(old: Any, new: Any) -> list[str]:
    """Options in which two configurations differ, each as ``option: old -> new``.

    A relative path and the absolute path that it stands for do not differ.
    """
    old, new = (options(absolute_paths(config)) for config in (old, new))
    found = _differences(old, new, "")
    return [f"{path}: {format_value(a)} -> {format_value(b)}" for path, a, b in found]


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    dicts = isinstance(old, dict) and isinstance(new, dict)
    if dicts and old.get("name") == new.get("name"):
        for key in old | new:
            yield from _differences(old.get(key), new.get(key), join(path, key))
    elif old != new:  # the options of two different components cannot be compared
        yield path, old, new


def distinguishing_options(configs: Sequence[Any]) -> list[dict[str, str]]:
    """Return the options in which any of some configurations differ, for each with its value.

    Options of a component are compared among the configurations that have it.

    Args:
        configs: frozen dataclasses of one class.
    """
    return _distinguishing([options(absolute_paths(config)) for config in configs], "")


def _distinguishing(values: Sequence[Any], path: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{} for _ in values]
    if all(value == values[0] for value in values):
        return found
    groups: dict[Any, list[int]] = {}  # by component
    for i, value in enumerate(values):
        if isinstance(value, dict):
            groups.setdefault(value.get("name"), []).append(i)
    if [len(group) for group in groups.values()] != [len(values)]:
        found = [{path: format_value(value)} for value in values]
    for group in groups.values():
        for key in dict.fromkeys(key for i in group for key in values[i]):
            own = _distinguishing([values[i].get(key) for i in group], join(path, key))
            for i, more in zip(group, own, strict=True):
                found[i] |= more
    return found


def format_value(plain: Any) -> str:
    """The value of an option in one line; a component is its name."""
    is_component = isinstance(plain, dict) and "name" in plain
    return str(plain["name"]) if is_component else json.dumps(plain, ensure_ascii=False)
