"""Frozen dataclasses as YAML: what is written reads back as an equal configuration."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from limbeck.config import discovery
from limbeck.config.discovery import (
    OWN_FILE,
    base_of,
    field_name,
    find,
    name_of,
    option_name,
    options_of,
    union_members,
    unknown_name,
)
from limbeck.config.renamed import current_option
from limbeck.config.scheduled_numbers import Schedulable, ScheduledNumber, looks_scheduled
from limbeck.config.strict_yaml import parse_yaml

T = TypeVar("T")

_MAX_INT = 1 << 63  #: seeds and sizes are 64-bit integers
_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_TYPE_NAMES |= {Path: "a path", type(None): "none"}
_FLOAT_MAX = 3.4028234e38  #: largest float32: beyond it, tensors are infinite


def describe_type(hint: Any) -> str:
    """The accepted values of an option in words."""
    origin, args, base = typing.get_origin(hint), typing.get_args(hint), base_of(hint)
    if base is not None and inspect.isabstract(base):
        return f"one of {', '.join(discovery.choices(base))}, or FILE.py:CLASS"
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple and args[1:] != (...,):
        return f"{len(args)} values"
    if origin is tuple:
        return f"a list, each {describe_type(args[0])}"
    if len(union_members(hint)) > 1:
        return " or ".join(describe_type(member) for member in args)
    return _TYPE_NAMES.get(hint, "a name")


def options(component: Any) -> dict[str, Any]:
    """The options of a frozen dataclass in plain lists, mappings and scalars."""
    found = options_of(type(component), component)
    return {name: to_plain(value, hint) for name, (hint, value) in found.items()}


def to_plain(value: Any, hint: Any) -> Any:
    """The value of an option in plain lists, mappings and scalars."""
    base = base_of(hint)
    if base is not None and value is not None:
        named = {} if type(value) is base else {"name": name_of(type(value))}
        return named | options(value)
    if isinstance(value, tuple):
        return [to_plain(v, h) for v, h in zip(value, _element_hints(hint, value), strict=True)]
    members = union_members(hint)
    if float in members and int not in members and type(value) is int:
        return float(value)  # 7 and 7.0 are the same configuration
    return str(value) if isinstance(value, Path | ScheduledNumber) else value


def _element_hints(hint: Any, values: typing.Sized) -> tuple[Any, ...]:
    args = typing.get_args(hint)
    return args[:1] * len(values) if args[1:] == (...,) else args


def to_yaml(config: Any) -> str:
    """Write a frozen dataclass as YAML, with every option."""
    plain = options(config)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    if yaml.safe_load(text) == plain:
        return text
    return yaml.safe_dump(plain, sort_keys=False, width=120)  # unusual line breaks, escaped


def from_yaml(cls: type[T], text: str) -> T:
    """Read a frozen dataclass from YAML; options left out take their defaults.

    Args:
        cls: the dataclass, such as ``Experiment``.
        text: a YAML mapping of options to values.

    Raises:
        ValueError: if an option is unknown or a value has the wrong type; the message names the
            option, the value and what is accepted.
    """
    plain = parse_yaml(text)
    if not isinstance(plain, dict):
        raise ValueError(
            f"a configuration maps options to values (steps: 500), not {_shortened(plain)}"
        )
    return build(cls, plain)


def read_yaml(cls: type[T], path: Path) -> T:
    """Read a frozen dataclass from a YAML file, as ``from_yaml``; errors name the file."""
    if not path.is_file():
        raise ValueError(f"no configuration file {path}")
    try:
        return from_yaml(cls, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: byte {error.start} is invalid") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def join(path: str, key: str) -> str:
    """Dotted path of an option; on the command line it starts with ``--`` and has hyphens."""
    key = key.replace("_", "-") if path[:2] == "--" else key
    return f"{path}.{key}" if path.strip("-") else path + key


def build(cls: type[T], plain: dict[str, Any], path: str = "", default: Any = None) -> T:
    """Make a dataclass from a mapping of its options; the command line is read by it too.

    Args:
        cls: the dataclass.
        plain: options and values, as YAML holds them or as words of the command line.
        path: option that the mapping belongs to, for messages; ``--`` for the command line.
        default: instance whose values are the defaults if it is a ``cls``.

    Raises:
        ValueError: as ``from_yaml``.
    """
    found, values = options_of(cls, default), {}
    for name in plain:
        if name not in found:
            text, noun = str(name), f"option of {path or cls.__name__}"
            new = current_option(cls, text)
            if new != text:
                raise ValueError(f"{join(path, text)} is now {join(path, new)}")
            raise unknown_name(noun, text[:60], found)
    for name, (hint, value) in found.items():
        if name in plain:
            scheduled = takes_schedule(cls, hint) and looks_scheduled(plain[name])
            read = _read_schedule if scheduled else _read
            value = read(plain[name], hint, join(path, name), value)
            check_range(cls, field_name(name), value, join(path, name))
        elif value is MISSING:
            raise ValueError(f"{join(path, name)} is missing; it is {describe_type(hint)}")
        values[field_name(name)] = value
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(_name_options(str(error), _option_names(values), path)) from error
    except Exception as error:
        if not discovery.is_own(cls):
            raise
        reason = f"{name_of(cls)} cannot be made: {type(error).__name__}: {error}"
        raise ValueError(f"{path}: {reason}" if path.strip("-") else reason) from error


@contextlib.contextmanager
def naming_options(*sections: Any) -> Iterator[None]:
    """Name the options of a command in errors of what is made from them, as ``build`` does.

    Args:
        sections: the dataclasses that were read from the command line.
    """
    try:
        yield
    except ValueError as error:
        names = tuple(name for section in sections for name in _option_names(vars(section)))
        raise ValueError(_name_options(str(error), names, "--")) from error


def _option_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the options of the components of a dataclass, ``cameras.perp_neg``, and of its own.

    Args:
        values: values of its fields.
    """
    inner = (
        f"{name}.{option}" for name, value in values.items() for option in options_of(type(value))
    )
    return (*inner, *map(option_name, values))


def _name_options(message: str, names: tuple[str, ...], path: str) -> str:
    """A message of a dataclass about its fields, with their names as options.

    Args:
        message: the message.
        names: names of the options. Words of a sentence, which have neither underscore nor dot, are
            replaced only as the subject that begins the message.
        path: option that the dataclass belongs to; ``--`` for the command line.
    """
    words = "|".join(re.escape(field_name(name)) for name in names if re.search(r"[_.]", name))
    subjects = "|".join(re.escape(field_name(name)) for name in names if name != "prompts")
    pattern = rf"^(?:{subjects})(?= must )"
    if words:
        pattern += rf"|(?<![\w.-])(?:{words})(?!\w)"

    def named(found: re.Match[str]) -> str:
        return join(path, option_name(found[0]))

    text = re.sub(pattern, named, message) if path else message
    return text if text.startswith(path) or not path.strip("-") else f"{path}: {text}"


def takes_schedule(cls: type, hint: Any) -> bool:
    """Whether an option of this type of a class may be a schedule over the run."""
    return issubclass(cls, Schedulable) and float in union_members(hint)


def _read_schedule(value: str, hint: Any, path: str, default: Any = None) -> ScheduledNumber:
    try:
        return ScheduledNumber(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(value: Any, hint: Any, path: str, default: Any = None) -> Any:
    members, base = union_members(hint), base_of(hint)
    if type(None) in members and value is None:
        return None
    if base is not None:
        return read_component(base, value, path, default)
    if type(None) in members and value == "none" and str not in members:
        return None
    for member in members:
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
            converted = _convert(value, member)
            if is_usable(converted, default):
                return converted
    raise refused_value(path, value, hint)


def check_range(cls: type, name: str, value: Any, path: str) -> None:
    """Check a value against the ``minimum`` and ``maximum`` in the metadata of its field, if any.

    Args:
        cls: dataclass of the field.
        name: name of the field.
        value: a number, several, a schedule, or None.
        path: option, for the message.

    Raises:
        ValueError: if the value is out of range.
    """
    limits: dict[str, float] = {}  # a subclass may give a field another default
    for part in reversed(cls.__mro__):
        if name in vars(part).get("__dataclass_fields__", {}):
            limits |= vars(part)["__dataclass_fields__"][name].metadata
    several = value.values if isinstance(value, ScheduledNumber) else value
    for number in several if isinstance(several, tuple | list) else [several]:
        if number is None:
            continue
        if "minimum" in limits and number < limits["minimum"]:
            raise ValueError(f"{path} must be at least {limits['minimum']}, not {number}")
        if "maximum" in limits and number > limits["maximum"]:
            raise ValueError(f"{path} must be at most {limits['maximum']}, not {number}")


def is_usable(value: Any, default: Any = None) -> bool:
    """Whether a value can be computed with.

    Numbers must fit float32 and 64 bits. A non-finite number is accepted for an option whose
    default is not finite.

    Args:
        value: value of an option.
        default: its default.
    """
    if isinstance(value, tuple | list):
        return all(is_usable(item) for item in value)
    if type(value) is int:
        return -_MAX_INT <= value < _MAX_INT
    if isinstance(value, float):
        has_finite_default = not isinstance(default, float) or math.isfinite(default)
        return abs(value) <= _FLOAT_MAX or not has_finite_default
    return True


def refused_value(path: str, value: Any, hint: Any) -> ValueError:
    """The error for a value that an option does not accept.

    Args:
        path: the option.
        value: the value.
        hint: type of the option.
    """
    accepted = describe_type(hint)
    for item in value if isinstance(value, tuple | list) else [value]:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            if not is_usable(float(item)):
                accepted = re.sub("a number", "a finite number", accepted)
            if type(item) is int or re.fullmatch(r"[-+]?\d+", str(item).strip()):
                accepted = re.sub("an integer(?! of)", "an integer of at most 64 bits", accepted)
    is_text = isinstance(value, str)
    quotes = "; put text in quotes" if "text" in accepted and not is_text else ""
    return ValueError(f"{path} must be {accepted}, not {_shortened(value)}{quotes}")


def _shortened(value: Any) -> str:
    """A value as Python writes it, in at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"an integer of {value.bit_length()} bits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _convert(value: Any, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        word = str(value)
        if isinstance(value, bool) and {"on", "off"} & {*args}:
            word = "on" if value else "off"  # YAML 1.1 reads on and off as true and false
        return {str(accepted): accepted for accepted in args}[word]
    if origin is tuple:
        values = [value] if isinstance(value, str) and args[1:] == (...,) else value
        if not isinstance(values, list | tuple):
            raise TypeError
        return tuple(
            _read(v, h, "") for v, h in zip(values, _element_hints(hint, values), strict=True)
        )
    if hint is bool:
        return {"true": True, "false": False}[str(value).lower()]
    if type(value) not in {float: (str, int, float), int: (str, int)}.get(hint, (str,)):
        raise TypeError
    if hint is Path:
        if not value:
            raise ValueError  # it would be the current folder
        return _path(value)
    return hint(value)  # YAML 1.1 reads 1e-3 as text


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no user of this name: a file may be called ~x
        return Path(text)


def read_component(base: type, value: Any, path: str, default: Any = None) -> Any:
    """A component from its name, or from a mapping of its ``name`` and options.

    Args:
        base: class of the component.
        value: name or mapping; without a name, the class is that of ``default``.
        path: option that it is the value of, for messages.
        default: instance whose values are the defaults if its class is chosen.

    Raises:
        ValueError: as ``from_yaml``.
    """
    plain = {"name": value} if isinstance(value, str) else value
    if not isinstance(plain, dict):
        raise ValueError(
            f"{path} must be 'NAME' or '{{name: NAME, option: value}}', not {_shortened(value)}"
        )
    cls = component_class(base, plain.get("name"), path, default)
    if cls is None:
        raise ValueError(f"{join(path, 'name')} is missing; it is {describe_type(base)}")
    own = {key: option for key, option in plain.items() if key != "name" or cls is base}
    return build(cls, own, path, default)


def component_class(base: type, name: Any, path: str, default: Any) -> type | None:
    """The class of a component.

    Args:
        base: class of the component.
        name: its name, or None for the class of the default.
        path: option that it is the value of, for messages.
        default: instance that is the default; None or MISSING if there is none.

    Raises:
        ValueError: if there is no component of this name.
    """
    if name is None and default is not None and default is not MISSING:
        return type(default)
    if not inspect.isabstract(base) and not OWN_FILE.fullmatch(str(name)):
        return base
    try:
        return None if name is None else find(getattr(base, "custom_base", base), str(name))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
