"""Components by name: nothing is registered; a class is found because it is a file of the package, or a file of yours."""

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
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

OWN_FILE = re.compile(r"(?P<path>.*\.py)(:(?P<name>\w*))?")


def closest_name(value: str, names: Iterable[str]) -> str | None:
    """The name that ``value`` may be a slip of, if there is one; case, hyphens and underscores count for nothing."""
    squashed = {_squash(name): name for name in names}
    return next(
        (
            squashed[found]
            for found in difflib.get_close_matches(_squash(value), squashed, n=1, cutoff=0.6)
        ),
        None,
    )


def unknown_name(what: str, value: object, accepted: Iterable[str]) -> ValueError:
    """The error for a name that is none: names the value, the nearest accepted one and all accepted ones."""
    names = sorted(accepted)
    guess = closest_name(str(value), names)
    hint = f" Did you mean {guess}?" if guess else ""
    return ValueError(
        f"no {what} is called {str(value)!r}.{hint} Accepted: {', '.join(names) or 'none'}"
    )


def _squash(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def base_of(hint: Any) -> type | None:
    """The dataclass a field holds, also of ``Base | None``; None where the field is a plain value.

    Where it is abstract, a component is chosen for it by name; where it is concrete, it is that class and has no name.
    """
    for part in (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    ):
        plain = typing.get_origin(part) or part  # Method[State] is a Method
        if isinstance(plain, type) and is_dataclass(plain):
            return plain
    return None


def hints_of(cls: type) -> dict[str, Any]:
    """The types of the options of a dataclass, by name, in order."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


@cache
def _import_package(base: type) -> None:
    """Import every module in which components of ``base`` may be defined.

    That is the package of ``base`` where it is defined in a ``base.py``, and its module alone otherwise.
    """
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


def _concrete(classes: Iterable[Any], base: type) -> list[type]:
    own: list[type] = [c for c in classes if isinstance(c, type) and issubclass(c, base)]
    return [c for c in own if not (inspect.isabstract(c) or c.__name__.startswith("_"))]


def component_name(cls: type) -> str:
    """Name of a component on the command line and in YAML.

    The class attribute ``name`` if the class sets one; else the class name in kebab-case, without the noun of its base class:
    ``TwoStageTimesteps`` is ``two-stage``, ``LoRACritic`` is ``lora``.
    """
    own = vars(cls).get("name")
    if isinstance(own, str):
        return own
    short = cls.__name__
    for base in cls.__mro__[1:]:
        noun = base.__name__.removesuffix("Config")
        if short != noun and noun and short.endswith(noun):
            short = short.removesuffix(noun)
            break
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", short).lower()


def choices(base: type) -> dict[str, type]:
    """Every component of the package that can stand for ``base``, by name, sorted.

    A component is a concrete subclass defined anywhere in the package, once the package of ``base`` is imported.
    """
    _import_package(base)
    inside = (
        c for c in _subclasses(base) if c.__module__.partition(".")[0] == __name__.partition(".")[0]
    )
    found = _concrete(dict.fromkeys(inside), base)
    return dict(
        sorted(
            (component_name(c), c) for c in found if not (inspect.isabstract(base) and c is base)
        )
    )


def find(base: type, name: str) -> type:
    """The class called ``name``: of the package (any case, ``-`` and ``_`` allowed), or ``path/to/mine.py:MyClass`` of your own.

    Raises ValueError that says what is accepted, where the name is unknown or the class does not fit ``base``.
    """
    own = OWN_FILE.fullmatch(name)
    if own:
        return _from_file(base, Path(own["path"]), own["name"] or "")
    known = choices(base)
    for key, cls in known.items():
        if _squash(name) == _squash(key):
            return cls
    error = unknown_name(_noun(base), name, known)
    raise ValueError(f"{error}, or path/to/file.py:ClassName of your own")


def name_of(cls: type) -> str:
    """What ``find`` finds the class by."""
    if cls.__module__.split(".")[0] == __name__.split(".")[0]:
        return component_name(cls)
    file = vars(sys.modules[cls.__module__]).get("__file__")
    if file is None:
        # made in a notebook or a console: the name tells a reader what it was, and reading it back fails with the reason
        return f"{cls.__module__}:{cls.__qualname__}"
    return f"{Path(file).resolve()}:{cls.__qualname__}"


def _noun(base: type) -> str:
    return base.__name__.removesuffix("Config").lower()


def _from_file(base: type, path: Path, name: str) -> type:
    module = _import(path)
    fitting = {
        c.__name__: c
        for c in _concrete(vars(module).values(), base)
        if c.__module__ == module.__name__
    }
    if not name and len(fitting) == 1:
        return next(iter(fitting.values()))
    if not name:
        raise ValueError(
            f"{path} must be followed by :ClassName; it defines {', '.join(fitting) or f'no {_noun(base)}'}"
        )
    cls = vars(module).get(name)
    if not isinstance(cls, type):
        raise unknown_name(f"{_noun(base)} in {path}", name, fitting)
    if not issubclass(cls, base):
        raise ValueError(
            f"{name} in {path} is no {_noun(base)}: let it inherit from {base.__module__}.{base.__qualname__}"
        )
    if inspect.isabstract(cls):
        lacking = ", ".join(sorted(vars(cls)["__abstractmethods__"]))
        raise ValueError(f"{name} in {path} lacks {lacking}")
    if vars(cls).get("__annotations__") and "__dataclass_fields__" not in vars(cls):
        raise ValueError(
            f"{name} in {path} has options but is no dataclass: put @dataclass(frozen=True) above it"
        )
    return cls


def _import(path: Path) -> types.ModuleType:
    """The module in ``path``; the one already imported where there is one, so that its classes stay equal."""
    full = path.expanduser().resolve()
    if not full.is_file():
        raise ValueError(f"no file {path}: give path/to/file.py:ClassName")
    for module in list(sys.modules.values()):
        file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else None
        # a module of our own making goes by its content, below
        if file and not module.__name__.startswith("own_") and Path(file) == full:
            return module
    content = full.read_bytes()
    name = f"own_{hashlib.sha256(bytes(full) + content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    try:
        exec(
            compile(content, str(full), "exec"), vars(module)
        )  # not the loader: its bytecode cache can miss an edit within a second
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
