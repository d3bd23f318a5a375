"""Limbeck: a laboratory for score distillation.

Everything is imported on first use, so that ``import limbeck`` and the command line start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck import methods, priors, representations
    from limbeck.api import distill, edit, sample
    from limbeck.config.scheduled_numbers import ScheduledNumber
    from limbeck.diffusion.sampling import Sampling
    from limbeck.distillation import critics, noise, timesteps, weights
    from limbeck.priors.loading import load
    from limbeck.training import optimizers, presets
    from limbeck.training.experiment import Experiment
    from limbeck.training.parallel_steps import ParallelSteps
    from limbeck.training.reference import ImageReference
    from limbeck.training.trainer import Run, steps

__version__ = "0.1.0"
__all__ = [
    "Experiment",
    "ImageReference",
    "ParallelSteps",
    "Run",
    "Sampling",
    "ScheduledNumber",
    "critics",
    "distill",
    "edit",
    "load",
    "methods",
    "noise",
    "optimizers",
    "presets",
    "priors",
    "representations",
    "sample",
    "steps",
    "timesteps",
    "weights",
]

_MODULES = {
    "critics": "distillation.critics",
    "methods": "methods",
    "noise": "distillation.noise",
    "optimizers": "training.optimizers",
    "presets": "training.presets",
    "priors": "priors",
    "representations": "representations",
    "timesteps": "distillation.timesteps",
    "weights": "distillation.weights",
}
_MODULE_OF = {
    "Experiment": "training.experiment",
    "ImageReference": "training.reference",
    "ParallelSteps": "training.parallel_steps",
    "Run": "training.trainer",
    "Sampling": "diffusion.sampling",
    "ScheduledNumber": "config.scheduled_numbers",
    "distill": "api",
    "edit": "api",
    "load": "priors.loading",
    "sample": "api",
    "steps": "training.trainer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"limbeck.{_MODULES[name]}")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"limbeck.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
