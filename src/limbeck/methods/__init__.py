"""Score distillation methods: one paper, one file. ``limbeck.methods.SDS`` is the class SDS of ``sds.py``; no list is kept."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def __getattr__(name: str) -> Any:
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    for file in files:
        if file == name.lower():
            return getattr(importlib.import_module(f"{__name__}.{file}"), name)
    raise AttributeError(f"no method {name!r}; there are {', '.join(files)}")
