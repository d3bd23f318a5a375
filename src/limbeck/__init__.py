"""Limbeck: a laboratory for score distillation.

Names are imported on first use, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck import methods, priors, representations
    from limbeck.api import distill, edit
    from limbeck.diffusion.sampling import Sampling
    from limbeck.priors.loading import load
    from limbeck.training.experiment import Experiment
    from limbeck.training.trainer import Run, steps

__version__ = "0.1.0"
__all__ = [
    "Experiment",
    "Run",
    "Sampling",
    "distill",
    "edit",
    "load",
    "methods",
    "priors",
    "representations",
    "steps",
]

_HOME = {
    "Experiment": "training.experiment",
    "load": "priors.loading",
    "Run": "training.trainer",
    "steps": "training.trainer",
    "Sampling": "diffusion.sampling",
    "distill": "api",
    "edit": "api",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = getattr(importlib.import_module(f"limbeck.{_HOME[name]}"), name)
        globals()[name] = found  # looked up once
        return found
    if name in ("methods", "priors", "representations"):
        return importlib.import_module(f"limbeck.{name}")
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
