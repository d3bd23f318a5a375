"""Every dataclass whose fields are options of some command."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass

import limbeck.cli.commands
from limbeck.config.discovery import base_of, choices, options_of
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment

#: options that commands import from other packages
IMPORTED = (
    "limbeck.cli.run_folder:OutputOptions",
    "limbeck.diffusion.sampling:Sampling",
    "limbeck.graphics.export.export:MeshExportOptions",
    "limbeck.runs.editing:EditInputs",
    "limbeck.runs.editing:EditOptions",
    "limbeck.runs.report.schedule_plots:SchedulePlotOptions",
    "limbeck.runs.run_command:RunOptions",
    "limbeck.runs.run_command:StartOptions",
    "limbeck.world.training_options:WorldTraining",
    "limbeck.world.multi_view_options:MultiViewTraining",
)


def command_classes() -> list[type]:
    """The dataclasses that the commands read: theirs, the imported ones, and the studies."""
    classes = [Experiment, *choices(Study).values()]
    for name in IMPORTED:
        module, _, cls = name.partition(":")
        classes.append(getattr(importlib.import_module(module), cls))
    for found in pkgutil.iter_modules(limbeck.cli.commands.__path__, "limbeck.cli.commands."):
        members = vars(importlib.import_module(found.name)).values()
        classes += [c for c in members if is_dataclass(c) and c.__module__ == found.name]
    return classes


def component_classes(base: type) -> list[type]:
    """The classes that can be chosen for an option with this base."""
    return list(choices(base).values()) if inspect.isabstract(base) else [base]


def option_classes() -> list[type]:
    """All classes with options: those of the commands, and the components in them."""
    found: dict[type, None] = {}
    waiting = command_classes()
    while waiting:
        cls = waiting.pop()
        if cls not in found:
            found[cls] = None
            bases = [base_of(hint) for hint, _ in options_of(cls).values()]
            waiting += [c for base in bases if base for c in component_classes(base)]
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__name__}")
