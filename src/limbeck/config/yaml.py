"""An experiment as text and back: what a run writes reads as the very same experiment."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import types
import typing
import unicodedata
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from limbeck.config.discovery import base_of, choices, find, hints_of, name_of, unknown_name

T = TypeVar("T")

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "nothing",
}


def wanted(hint: Any) -> str:
    """The type of an option in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if base_of(hint) is not None:
        return "a component's name"
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(wanted(a) for a in args)
    if origin is tuple:
        return f"a list, each {wanted(args[0])}" if args[1:] == (...,) else f"{len(args)} values"
    return WORDS.get(hint, str(hint))


def mapping(value: Any, hint: Any = None) -> Any:
    """``value`` in plain lists, mappings and scalars; a component becomes its name and its options."""
    base = base_of(hint or type(value))
    if base is not None and value is not None:
        return ({"name": name_of(type(value))} if inspect.isabstract(base) else {}) | options(value)
    if isinstance(value, tuple):
        args = typing.get_args(hint)
        each = args if args and args[1:] != (...,) else (args[0] if args else None,) * len(value)
        return [mapping(v, h) for v, h in zip(value, each, strict=True)]
    if isinstance(value, int) and not isinstance(value, bool) and hint is float:
        return float(value)  # 7 and 7.0 are the same experiment
    return str(value) if isinstance(value, Path) else value


def options(component: Any) -> dict[str, Any]:
    """The options of a frozen dataclass as a plain mapping."""
    return {
        name: mapping(getattr(component, name), hint)
        for name, hint in hints_of(type(component)).items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML reads as a line break but its plain style does not escape."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if set(text) & set("\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(config: Any) -> str:
    """Write a frozen dataclass as YAML, with every option."""
    return yaml.dump(
        options(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )


def from_yaml(cls: type[T], text: str) -> T:
    """Read a frozen dataclass from YAML; options left out take their defaults.

    Args:
        cls: the dataclass, such as ``Experiment``.
        text: a YAML mapping of options to values.

    Raises:
        ValueError: if an option is unknown or a value has the wrong type; the message names the option, the value and what is
            accepted.
    """
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"this is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict):
        raise ValueError(
            f"a configuration maps options to values, as in 'steps: 500', not {plain!r:.60}"
        )
    return _make(cls, plain, "")


def read_yaml(cls: type[T], path: Path) -> T:
    """Read a frozen dataclass from a YAML file, as ``from_yaml``.

    Raises:
        ValueError: if there is no such file or it cannot be read as ``cls``; the message names the file.
    """
    if not path.is_file():
        raise ValueError(f"no configuration file {path}")
    try:
        return from_yaml(cls, path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _make(cls: type, plain: dict, where: str, default: Any = None) -> Any:
    """A ``cls`` of what ``plain`` says, the rest as in ``default`` if that is a ``cls`` too, else by its own defaults."""
    hints = hints_of(cls)
    default = default if type(default) is cls else None
    for key in plain:
        if key not in hints:
            raise unknown_name(f"option of {where or 'an experiment'}", key, hints)
    defaults = {
        f.name: getattr(default, f.name) if default is not None else default_of(f)
        for f in fields(cls)
        if f.init
    }
    for key, value in defaults.items():
        if key not in plain and value is MISSING:
            raise ValueError(f"{_dotted(where, key)} is missing; it is {wanted(hints[key])}")
    values = defaults | {
        key: _read(value, hints[key], _dotted(where, key), defaults[key])
        for key, value in plain.items()
    }
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def default_of(field: Field) -> Any:
    """What a field is when nothing is said; MISSING where something must be."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _read(value: Any, hint: Any, where: str, default: Any = None) -> Any:
    """``value`` as ``hint`` wants it, or ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_any(value, args, where, default)
    base = base_of(hint)
    if base is not None:
        return _component(value, base, where, default)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, str) and args == (str, ...):
        return (value,)
    if (
        origin is tuple
        and isinstance(value, list)
        and (args[1:] == (...,) or len(args) == len(value))
    ):
        each = args[:1] * len(value) if args[1:] == (...,) else args
        return tuple(
            _read(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, each, strict=True))
        )
    if isinstance(hint, type):
        return _scalar(value, hint, where)
    raise _wrong(value, hint, where)


def _read_any(value: Any, hints: tuple, where: str, default: Any) -> Any:
    if value is None and type(None) in hints:
        return None
    rest = [h for h in hints if h is not type(None)]
    for hint in rest[:-1]:
        try:
            return _read(value, hint, where, default)
        except ValueError:
            continue
    return _read(value, rest[-1], where, default)


def _scalar(value: Any, hint: type, where: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 takes 1e-3 for text
        except ValueError:
            raise _wrong(value, hint, where) from None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is int and not number:
        raise _wrong(value, hint, where)
    if isinstance(value, hint):
        return value
    raise _wrong(value, hint, where)


def _wrong(value: Any, hint: Any, where: str) -> ValueError:
    quotes = (
        "; put quotes around it" if hint is str and isinstance(value, bool | int | float) else ""
    )
    return ValueError(f"{where} must be {wanted(hint)}, not {value!r}{quotes}")


def _component(value: Any, base: type, where: str, default: Any) -> Any:
    plain = {"name": value} if isinstance(value, str) else value
    if not isinstance(plain, dict):
        raise ValueError(
            f"{where} must be a component as in '{{name: ..., option: value}}', not {value!r}"
        )
    if not inspect.isabstract(base):
        return _make(base, plain, where, default)
    name = plain.get("name", name_of(type(default)) if isinstance(default, base) else None)
    if not isinstance(name, str):
        raise ValueError(f"{where}.name must be one of {', '.join(choices(base))}, not {name!r}")
    try:
        cls = find(base, name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return _make(cls, {k: v for k, v in plain.items() if k != "name"}, where, default)


def fingerprint(settings: Any) -> str:
    """Eight hexadecimal digits of a frozen dataclass, which differ where any option differs."""
    return hashlib.sha256(json.dumps(options(settings), sort_keys=True).encode()).hexdigest()[:8]


def slug(text: str, longest: int = 40) -> str:
    """``text`` as a folder name: lower-case ASCII words joined by hyphens, at most ``longest`` characters, never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:longest].strip("-") or "prompt"


def differences(old: Any, new: Any) -> list[str]:
    """Options in which two configurations differ, each as ``option: old -> new``."""
    return list(_differences(options(old), options(new), ""))


def _differences(old: dict, new: dict, where: str) -> typing.Iterator[str]:
    if old.get("name") != new.get("name"):
        # options of two different components have nothing to say to each other
        yield f"{where}: {old.get('name')} -> {new.get('name')}"
        return
    for key in old | new:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, _dotted(where, key))
        elif a != b:
            yield f"{_dotted(where, key)}: {_short(a)} -> {_short(b)}"


def _short(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) else json.dumps(value, ensure_ascii=False)
