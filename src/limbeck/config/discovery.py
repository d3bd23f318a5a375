"""Components by name: classes in the modules of the package, or in a file of your own."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import keyword
import pkgutil
import re
import sys
import traceback
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.config.renamed import renamed_component

OWN_FILE = re.compile(r"(?P<path>.*\.py)(:(?P<name>\w*))?")
OWN_MODULE = "own_"  #: how the names of modules begin that are files of one's own
_PACKAGE = __name__.partition(".")[0]


def unknown_name(noun: str, value: object, accepted: Iterable[str]) -> ValueError:
    """The error for an unknown name, with the most similar accepted name and all of them.

    Args:
        noun: what is called so.
        value: the unknown name.
        accepted: all names.
    """
    names = {_squash(name): name for name in sorted(accepted)}
    guesses = difflib.get_close_matches(_squash(str(value)), names, 1)
    hint = f" Did you mean {names[guesses[0]]}?" if guesses else ""
    known = ", ".join(names.values()) or "none"
    return ValueError(f"no {noun} is called {str(value)!r}.{hint} Accepted: {known}")


def _squash(name: str) -> str:
    return re.sub("[-_]", "", name.lower())


def union_members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def base_of(hint: Any) -> type | None:
    """The dataclass in a type such as ``Base`` or ``Base | None``; None for a plain value.

    A component is chosen by name if the dataclass is abstract.
    """
    classes = [typing.get_origin(member) or member for member in union_members(hint)]
    return next((c for c in classes if isinstance(c, type) and is_dataclass(c)), None)


def option_name(field_name: str) -> str:
    """Name of the option of a field: ``from`` for ``from_``, since no field can be called so."""
    word = field_name.removesuffix("_")
    return word if keyword.iskeyword(word) else field_name


def field_name(option: str) -> str:
    """Name of the field of an option: ``from_`` for ``from``."""
    return f"{option}_" if keyword.iskeyword(option) else option


def options_of(cls: type, instance: Any = None) -> dict[str, tuple[Any, Any]]:
    """Type and default of each option of a class: its dataclass fields, in order.

    Args:
        cls: a dataclass; other classes have no options.
        instance: instance whose values are the defaults if it is a ``cls``.

    Returns:
        Types and defaults by name; MISSING for an option without a default.
    """
    found, hints = {}, _type_hints(cls)
    for field in fields(cls) if is_dataclass(cls) else ():
        default = field.default
        if type(instance) is cls:
            default = getattr(instance, field.name)
        elif field.default_factory is not MISSING:
            default = field.default_factory()
        if field.init:
            found[option_name(field.name)] = hints[field.name], default
    return found


@cache  # Studio and sweeps ask hundreds of times
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def component_name(cls: type) -> str:
    """Name of a component on the command line and in YAML.

    The class attribute ``name`` if the class sets one; else the class name in kebab-case, without
    the noun of its base class: ``TwoStageTimesteps`` is ``two-stage``, ``LoRACritic`` is ``lora``.
    """
    own = vars(cls).get("name")
    if isinstance(own, str):
        return own
    nouns = [base.__name__.removesuffix("Config") for base in cls.__mro__[1:]]
    noun = next((n for n in nouns if n and n != cls.__name__ and cls.__name__.endswith(n)), "")
    return _kebab(cls.__name__.removesuffix(noun))


def choices(base: type) -> dict[str, type]:
    """Every component of the package that can be chosen for ``base``, by name, sorted.

    A component is a concrete public subclass. The modules that may define one are imported: that
    of ``base``, or all of its package if it is in ``base.py``.
    """
    package, _, last = base.__module__.rpartition(".")
    _import_modules(package if last == "base" else base.__module__)
    found, classes = {}, [base]
    for cls in classes:  # grows
        classes += cls.__subclasses__()
        own = cls.__module__.partition(".")[0] == _PACKAGE and not cls.__name__.startswith("_")
        if own and not inspect.isabstract(cls):
            found[component_name(cls)] = cls
    return dict(sorted(found.items()))


@cache
def _import_modules(name: str) -> None:
    """Import a module, or all modules of a package."""
    top = importlib.import_module(name)
    for module in pkgutil.iter_modules(getattr(top, "__path__", ()), top.__name__ + "."):
        if not module.ispkg:
            importlib.import_module(module.name)


def find(base: type, name: str) -> type:
    """The component of ``base`` called ``name``.

    Args:
        base: class the component must inherit from, or implement if it is a protocol.
        name: name of a component of the package, where case, hyphens and underscores are ignored;
            or ``path/to/file.py:ClassName``, or ``path/to/file.py`` if it defines only one.

    Raises:
        ValueError: if there is no such component; the message lists the accepted names.
    """
    if file := OWN_FILE.fullmatch(name):
        return _find_in_file(base, Path(file["path"]), file["name"] or "")
    known, noun = choices(base), _noun(base)
    squashed = {_squash(key): cls for key, cls in known.items()}
    if _squash(name) in squashed:
        return squashed[_squash(name)]
    error = unknown_name(noun, name, known)
    raise renamed_component(noun, name) or ValueError(f"{error}, or path/to/file.py:ClassName")


def is_own(cls: type) -> bool:
    """Whether a class is the user's own, defined outside of Limbeck."""
    return cls.__module__.partition(".")[0] != _PACKAGE


def name_of(cls: type) -> str:
    """The name by which ``find`` finds the class."""
    if not is_own(cls):
        return component_name(cls)
    file = vars(sys.modules[cls.__module__]).get("__file__")
    # a class made in a notebook has no file: reading its name back fails with the reason
    return f"{Path(file).resolve() if file else cls.__module__}:{cls.__qualname__}"


def _noun(base: type) -> str:
    return _kebab(base.__name__.removesuffix("Config")).replace("-", " ")


def _find_in_file(base: type, path: Path, name: str) -> type:
    module, noun = _import_file(path), _noun(base)
    classes = {n: c for n, c in vars(module).items() if isinstance(c, type)}
    own = [
        n for n, c in classes.items() if c.__module__ == module.__name__ and not _misfit(c, base)
    ]
    if not name and len(own) != 1:
        defined = ", ".join(own) or f"no {noun}"
        raise ValueError(f"{path} must be followed by :ClassName; it defines {defined}")
    name = name or own[0]
    if name not in classes:
        raise unknown_name(f"{noun} in {path}", name, own)
    if misfit := _misfit(classes[name], base):
        raise ValueError(f"{name} in {path} {misfit}")
    return classes[name]


def _misfit(cls: type, base: type) -> str:
    """Why a class cannot stand for ``base``; empty if it can."""
    lacking = getattr(cls, "__abstractmethods__", ())
    if getattr(base, "_is_protocol", False):
        methods = [n for n, value in vars(base).items() if inspect.isfunction(value)]
        lacking = [n for n in methods if not any(n in vars(part) for part in cls.__mro__)]
    elif not issubclass(cls, base):
        noun = _noun(base)
        article = "an" if noun[0] in "aeiou" else "a"
        return f"is not {article} {noun}: inherit from {base.__module__}.{base.__qualname__}"
    elif vars(cls).get("__annotations__") and "__dataclass_fields__" not in vars(cls):
        return "has options but is not a dataclass: decorate it with @dataclass(frozen=True)"
    if not lacking:
        return _unreadable_option(cls)
    return f"lacks {', '.join(sorted(lacking))}{_base_with(base, set(lacking))}"


def _base_with(base: type, lacking: set[str]) -> str:
    """Which class next to a base has what a class lacks, as the end of a message."""
    classes: list[type] = type.__subclasses__(base)
    for cls in classes:
        abstract: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
        if cls.__module__ == base.__module__ and not lacking & set(abstract):
            return f": define it, or inherit from {cls.__module__}.{cls.__qualname__}"
    return ""


def _unreadable_option(cls: type) -> str:
    """Why an option of a class cannot be read from a command line; empty if all can."""
    if not is_dataclass(cls):
        return ""
    try:
        found = {name: hint for name, (hint, _) in options_of(cls).items()}
    except Exception as error:  # a name that the file does not import, a default that fails
        return f"has options that cannot be read: {type(error).__name__}: {error}"
    for name, hint in found.items():
        if not _is_readable(hint):
            kind = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
            return (
                f"has the option {name} of type {kind}; use bool, int, float, str, Path, "
                "tuple[float, ...], Literal or a dataclass"
            )
    return ""


def _is_readable(hint: Any) -> bool:
    if base_of(hint) is not None or hint in (bool, int, float, str, Path, type(None), ...):
        return True
    if typing.get_origin(hint) is tuple or len(union_members(hint)) > 1:
        return all(map(_is_readable, typing.get_args(hint)))
    return typing.get_origin(hint) is typing.Literal


def _last_line(error: BaseException, file: str) -> str:
    """``:N``, the last line of ``file`` in the traceback of an error; empty if there is none."""
    entries = traceback.extract_tb(error.__traceback__)
    lines = [entry.lineno for entry in entries if entry.filename == file]
    return f":{lines[-1]}" if lines else ""


def _import_file(path: Path) -> types.ModuleType:
    """The module in ``path``; if it is imported already, that one, so that classes are equal."""
    full = path.expanduser().resolve()
    if not full.is_file():
        raise ValueError(f"no file {path}: give path/to/file.py:ClassName")
    content = full.read_bytes()
    name = f"{OWN_MODULE}{hashlib.sha256(bytes(full) + content).hexdigest()[:16]}"
    for key, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else None
        if key == name or (file == str(full) and not key.startswith(OWN_MODULE)):
            return module
    module = types.ModuleType(name)
    module.__file__ = str(full)
    sys.modules[name] = module  # dataclasses look up their module while they are made
    try:
        exec(compile(content, str(full), "exec"), vars(module))
    except (Exception, SystemExit) as error:  # sys.exit() in a file would end this process too
        del sys.modules[name]
        line = _last_line(error, str(full))
        reason = f"{type(error).__name__}: {error}"
        if "cannot inherit non-frozen dataclass" in str(error):
            reason += "; decorate the class with @dataclass(frozen=True)"
        raise ValueError(f"{path}{line} cannot be imported: {reason}") from error
    return module
