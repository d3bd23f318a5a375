"""Frozen dataclasses as YAML: what is written reads back as an equal configuration."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import re
import typing
import unicodedata
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from limbeck.config.discovery import (
    OWN_FILE,
    base_of,
    choices,
    default_of,
    find,
    hints_of,
    name_of,
    union_members,
    unknown_name,
)
from limbeck.config.renamed import renamed_option

T = TypeVar("T")

_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "none",
}


def describe_type(hint: Any) -> str:
    """The type of an option in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if base_of(hint) is not None:
        return "a component's name"
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if len(union_members(hint)) > 1:
        return " or ".join(describe_type(a) for a in args)
    if origin is tuple and args[1:] == (...,):
        return f"a list, each {describe_type(args[0])}"
    return f"{len(args)} values" if origin is tuple else _TYPE_NAMES.get(hint, str(hint))


def options(component: Any) -> dict[str, Any]:
    """The options of a frozen dataclass in plain lists, mappings and scalars."""
    hints = hints_of(type(component))
    return {name: _plain(getattr(component, name), hint) for name, hint in hints.items()}


def _plain(value: Any, hint: Any) -> Any:
    base = base_of(hint)
    if base is not None and value is not None:
        name = {} if type(value) is base else {"name": name_of(type(value))}
        return name | options(value)
    if isinstance(value, tuple):
        return [_plain(v, h) for v, h in zip(value, _element_hints(hint, value), strict=True)]
    if isinstance(value, int) and not isinstance(value, bool) and hint is float:
        return float(value)  # 7 and 7.0 are the same configuration
    return str(value) if isinstance(value, Path) else value


def _element_hints(hint: Any, values: typing.Sequence) -> typing.Sequence:
    args = typing.get_args(hint)
    return args[:1] * len(values) if args[1:] == (...,) else args


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML reads as a line break but its plain style does not escape."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if set(text) & set("\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(config: Any) -> str:
    """Write a frozen dataclass as YAML, with every option."""
    plain = options(config)
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def from_yaml(cls: type[T], text: str) -> T:
    """Read a frozen dataclass from YAML; options left out take their defaults.

    Args:
        cls: the dataclass, such as ``Experiment``.
        text: a YAML mapping of options to values.

    Raises:
        ValueError: if an option is unknown or a value has the wrong type; the message names the
            option, the value and what is accepted.
    """
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"this is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict):
        example = "as in 'steps: 500'"
        raise ValueError(f"a configuration maps options to values, {example}, not {plain!r:.60}")
    return build(cls, plain)


def read_yaml(cls: type[T], path: Path) -> T:
    """Read a frozen dataclass from a YAML file, as ``from_yaml``.

    Raises:
        ValueError: if there is no such file or it cannot be read as ``cls``; the message names the
            file.
    """
    if not path.is_file():
        raise ValueError(f"no configuration file {path}")
    try:
        return from_yaml(cls, path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def join(path: str, key: str) -> str:
    """Dotted path of an option; that of the command line starts with ``--`` and has hyphens."""
    if path.startswith("--"):
        key = key.replace("_", "-")
    return f"{path}.{key}" if path.strip("-") else path + key


def build(cls: type[T], plain: dict[str, Any], path: str = "", default: Any = None) -> T:
    """Make a dataclass from a mapping of its options; the same reader serves the command line.

    Args:
        cls: the dataclass.
        plain: options and values, as YAML or as the words of a command line.
        path: where the mapping stands, for messages; ``--`` for the command line.
        default: instance whose values are the defaults if it is a ``cls``.

    Raises:
        ValueError: as ``from_yaml``.
    """
    hints = hints_of(cls)
    for key in plain:
        if key not in hints:
            raise renamed_option(join(path, key)) or unknown_name(
                f"option of {path or cls.__name__}", key, hints
            )
    values = {}
    for key, hint in hints.items():
        values[key] = default_of(cls, key, default)
        if key in plain:
            values[key] = _read(plain[key], hint, join(path, key), values[key])
        elif values[key] is MISSING:
            raise ValueError(f"{join(path, key)} is missing; it is {describe_type(hint)}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if path.strip("-") else str(error)) from error


def _read(value: Any, hint: Any, path: str, default: Any = None) -> Any:
    """``value`` converted to the type of the option, or ValueError."""
    members = union_members(hint)
    if type(None) in members and (value is None or (value == "none" and str not in members)):
        return None
    base = base_of(hint)
    if base is not None:
        return read_component(base, value, path, default)
    for member in members if len(members) > 1 else ():
        with contextlib.suppress(ValueError):
            return _read(value, member, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and str(value) in map(str, args):
        return next(a for a in args if str(a) == str(value))
    if origin is tuple:
        values = [value] if isinstance(value, str) and args[1:] == (...,) else value
        if isinstance(values, list) and (args[1:] == (...,) or len(args) == len(values)):
            pairs = enumerate(zip(values, _element_hints(hint, values), strict=True))
            return tuple(_read(v, h, f"{path}[{i}]") for i, (v, h) in pairs)
    if isinstance(hint, type):
        with contextlib.suppress(ValueError):
            return _scalar(value, hint)
    quotes = "; put quotes around it" if hint is str and isinstance(value, int | float) else ""
    raise ValueError(f"{path} must be {describe_type(hint)}, not {value!r}{quotes}")


def _scalar(value: Any, hint: type) -> Any:
    is_text, is_number = isinstance(value, str), type(value) in (int, float)
    if hint is bool and is_text and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if hint is Path and is_text:
        return Path(value)
    if (hint is float and (is_text or is_number)) or (hint is int and is_text):
        return hint(value)  # YAML 1.1 reads 1e-3 as text
    if type(value) is hint:
        return value
    raise ValueError


def read_component(base: type, value: Any, path: str, default: Any = None) -> Any:
    """A component from its name, or from a mapping of its ``name`` and options.

    Args:
        base: the class of the component, as ``find`` takes it.
        value: name or mapping; without a name, the class is that of ``default``.
        path: where the value stands, for messages.
        default: instance whose values are the defaults if its class is chosen.

    Raises:
        ValueError: as ``from_yaml``.
    """
    plain = {"name": value} if isinstance(value, str) else value
    if not isinstance(plain, dict):
        example = "{name: ..., option: value}"
        raise ValueError(f"{path} must be a component, as in {example!r}, not {value!r}")
    name = plain.get("name", MISSING)
    if not isinstance(name, str) and name is not MISSING:
        raise ValueError(
            f"{join(path, 'name')} must be one of {', '.join(choices(base))}, not {name!r}"
        )
    cls = component_class(base, None if name is MISSING else name, path, default)
    if cls is None:
        raise ValueError(f"{path} is missing; accepted: {', '.join(choices(base))}")
    if cls is not base:
        plain = {key: v for key, v in plain.items() if key != "name"}
    return build(cls, plain, path, default)


def component_class(base: type, name: str | None, path: str, default: Any) -> type | None:
    """The class a component's name stands for; without a name that of its default, if any."""
    if name is None and default is not None and default is not MISSING:
        return type(default)
    if not inspect.isabstract(base) and (name is None or not OWN_FILE.fullmatch(name)):
        return base
    try:
        return find(getattr(base, "custom_base", base), name) if name is not None else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fingerprint(config: Any) -> str:
    """Eight hexadecimal digits of a frozen dataclass, which differ where any option differs."""
    return hashlib.sha256(json.dumps(options(config), sort_keys=True).encode()).hexdigest()[:8]


def slug(text: str, max_length: int = 40) -> str:
    """``text`` as a folder name: lower-case ASCII words joined by hyphens, never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:max_length].strip("-") or "prompt"


def differences(old: Any, new: Any) -> list[str]:
    """Options in which two configurations differ, each as ``option: old -> new``."""
    return list(_differences(options(old), options(new), ""))


def _differences(old: dict, new: dict, path: str) -> typing.Iterator[str]:
    if old.get("name") != new.get("name"):
        # the options of two different components cannot be compared
        yield f"{path}: {old.get('name')} -> {new.get('name')}"
        return
    for key in old | new:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, join(path, key))
        elif a != b:
            yield f"{join(path, key)}: {_short(a)} -> {_short(b)}"


def _short(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) else json.dumps(value, ensure_ascii=False)
