"""Components by name: a class is found because its module is in the package, or in your own file."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.config.renamed import RENAMED_COMPONENTS, SEARCH_NAMES

OWN_FILE = re.compile(r"(?P<path>.*\.py)(:(?P<name>\w*))?")
_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def closest_name(value: str, names: Iterable[str]) -> str | None:
    """The name most similar to ``value``, if any is; case, hyphens and underscores are ignored."""
    squashed = {_squash(name): name for name in names}
    return next((squashed[n] for n in difflib.get_close_matches(_squash(value), squashed, 1)), None)


def unknown_name(noun: str, value: object, accepted: Iterable[str]) -> ValueError:
    """The error for an unknown name: the value, the most similar accepted name, and all of them."""
    names = sorted(accepted)
    guess = closest_name(str(value), names)
    hint = f" Did you mean {guess}?" if guess else ""
    known = ", ".join(names) or "none"
    return ValueError(f"no {noun} is called {str(value)!r}.{hint} Accepted: {known}")


def _squash(name: str) -> str:
    return re.sub("[-_]", "", name.lower())


def base_of(hint: Any) -> type | None:
    """The dataclass in a type hint such as ``Base`` or ``Base | None``; None for a plain value.

    A component is chosen by name if the dataclass is abstract.
    """
    for part in union_members(hint):
        plain = typing.get_origin(part) or part  # Method[State] is a Method
        if isinstance(plain, type) and is_dataclass(plain):
            return plain
    return None


def union_members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def hints_of(cls: type) -> dict[str, Any]:
    """Names and types of the options of a class: its dataclass fields, in order."""
    if not is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def default_of(cls: type, name: str, instance: Any = None) -> Any:
    """Default of an option: its value in ``instance`` if that is a ``cls``; MISSING if none."""
    if type(instance) is cls:
        return getattr(instance, name)
    field = next(f for f in fields(cls) if f.name == name)
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _import_package(base: type) -> None:
    """Import every module that may define components of ``base``: its package if it is in base.py."""
    package, _, last = base.__module__.rpartition(".")
    top = importlib.import_module(package if last == "base" else base.__module__)
    for module in pkgutil.iter_modules(getattr(top, "__path__", ()), top.__name__ + "."):
        if not module.ispkg:
            importlib.import_module(module.name)


def _subclasses(base: type) -> Iterator[type]:
    yield base
    direct: list[type] = base.__subclasses__()
    for cls in direct:
        yield from _subclasses(cls)


def _kebab(name: str) -> str:
    return _WORD_START.sub("-", name).lower()


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

    A component is a concrete public subclass, once the package of ``base`` is imported.
    """
    _import_package(base)
    package = __name__.partition(".")[0]
    found = [
        (component_name(cls), cls)
        for cls in dict.fromkeys(_subclasses(base))
        if cls.__module__.partition(".")[0] == package
        and not (inspect.isabstract(cls) or cls.__name__.startswith("_"))
    ]
    return dict(sorted(found))


def find(base: type, name: str) -> type:
    """The component of ``base`` called ``name``.

    Args:
        base: class the component must inherit from, or implement if it is a protocol.
        name: name of a component of the package, where case, hyphens and underscores are ignored;
            or ``path/to/file.py:ClassName``, or ``path/to/file.py`` if it defines only one.

    Raises:
        ValueError: if there is no such component; the message lists the accepted names.
    """
    file = OWN_FILE.fullmatch(name)
    if file:
        return _find_in_file(base, Path(file["path"]), file["name"] or "")
    known, noun, squashed = choices(base), _noun(base), _squash(name)
    for key, cls in known.items():
        if _squash(key) == squashed:
            return cls
    if squashed in RENAMED_COMPONENTS.get(noun, {}):
        raise ValueError(f"{noun} {name!r} is now {RENAMED_COMPONENTS[noun][squashed]!r}")
    if noun == "method" and squashed in SEARCH_NAMES:
        raise ValueError(f"method {name!r}: use {SEARCH_NAMES[squashed]}")
    error = unknown_name(noun, name, known)
    raise ValueError(f"{error}, or path/to/file.py:ClassName of your own")


def name_of(cls: type) -> str:
    """The name by which ``find`` finds the class."""
    if cls.__module__.split(".")[0] == __name__.split(".")[0]:
        return component_name(cls)
    file = vars(sys.modules[cls.__module__]).get("__file__")
    # a class made in a notebook has no file: reading its name back fails with the reason
    return f"{Path(file).resolve() if file else cls.__module__}:{cls.__qualname__}"


def _noun(base: type) -> str:
    return _kebab(base.__name__.removesuffix("Config")).replace("-", " ")


def _lacking(cls: type, base: type) -> list[str]:
    """Names of the methods of ``base`` that ``cls`` does not implement."""
    if not getattr(base, "_is_protocol", False):
        return sorted(getattr(cls, "__abstractmethods__", ()))
    methods = [n for n, value in vars(base).items() if inspect.isfunction(value)]
    methods = [n for n in methods if n == "__call__" or not n.startswith("_")]
    return [n for n in methods if not any(n in vars(part) for part in cls.__mro__)]


def _find_in_file(base: type, path: Path, name: str) -> type:
    module, noun, protocol = _import_file(path), _noun(base), getattr(base, "_is_protocol", False)
    own = [
        c for c in vars(module).values() if isinstance(c, type) and protocol | issubclass(c, base)
    ]
    own = [c for c in own if c.__module__ == module.__name__ and not _lacking(c, base)]
    if not name and len(own) == 1:
        return own[0]
    if not name:
        defined = ", ".join(c.__name__ for c in own) or f"no {noun}"
        raise ValueError(f"{path} must be followed by :ClassName; it defines {defined}")
    cls = vars(module).get(name)
    if not isinstance(cls, type):
        raise unknown_name(f"{noun} in {path}", name, [c.__name__ for c in own])
    if not (protocol or issubclass(cls, base)):
        parent = f"{base.__module__}.{base.__qualname__}"
        raise ValueError(f"{name} in {path} is not a {noun}: let it inherit from {parent}")
    if _lacking(cls, base):
        raise ValueError(f"{name} in {path} lacks {', '.join(_lacking(cls, base))}")
    if vars(cls).get("__annotations__") and not (protocol or "__dataclass_fields__" in vars(cls)):
        cure = "decorate it with @dataclass(frozen=True)"
        raise ValueError(f"{name} in {path} has options but is not a dataclass: {cure}")
    return cls


def _import_file(path: Path) -> types.ModuleType:
    """The module in ``path``; one that is imported already is reused, so that its classes are equal."""
    full = path.expanduser().resolve()
    if not full.is_file():
        raise ValueError(f"no file {path}: give path/to/file.py:ClassName")
    for module in list(sys.modules.values()):
        file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else None
        if file and not module.__name__.startswith("own_") and Path(file) == full:
            return module
    content = full.read_bytes()
    name = f"own_{hashlib.sha256(bytes(full) + content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module while they are made
    try:  # without the loader, whose bytecode cache can miss an edit within a second
        exec(compile(content, str(full), "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
