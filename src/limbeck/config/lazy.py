"""Packages whose classes are imported on first use and listed by ``dir``."""

from __future__ import annotations

import ast
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any


@cache
def exports(package: str) -> dict[str, str]:
    """Public dataclasses in the modules of a package, read from the source without importing it.

    Args:
        package: dotted name of an imported package.

    Returns:
        Class name to dotted module name, sorted by class name.
    """
    found: dict[str, str] = {}
    folder = Path(str(sys.modules[package].__file__)).parent
    for file in folder.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
                found[node.name] = f"{package}.{file.stem}"
    return dict(sorted(found.items()))


def attribute(package: str, name: str) -> Any:
    """Import the class ``name`` of a package; for the module-level ``__getattr__`` of the package.

    Raises:
        AttributeError: if no module of the package defines it; the message lists the classes.
    """
    module = exports(package).get(name)
    if module is None:
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}; it has {', '.join(exports(package))}"
        )
    return getattr(importlib.import_module(module), name)


def defined_classes(module: str) -> list[str]:
    """Names of the public classes that a module defines; for its module-level ``__dir__``."""
    return sorted(
        name
        for name, value in vars(sys.modules[module]).items()
        if isinstance(value, type) and value.__module__ == module and not name.startswith("_")
    )
