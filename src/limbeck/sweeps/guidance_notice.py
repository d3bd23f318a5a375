"""A notice where the methods of a sweep have different guidance scales by default."""

from __future__ import annotations

from collections.abc import Iterable

from limbeck.config.comparison import format_value
from limbeck.config.discovery import component_name, options_of
from limbeck.methods.base import Method
from limbeck.system.notices import notify


def notify_different_guidance(methods: Iterable[Method]) -> None:
    """Give notice of methods that are compared at different guidance scales.

    The scale decides as much as the method does. Methods without the option are left out, and so
    are sweeps that give a method several scales.

    Args:
        methods: the methods of all runs.
    """
    scales = dict[str, set[str]]()
    for method in methods:
        _, scale = options_of(type(method), method).get("guidance", (None, None))
        if scale is not None:
            scales.setdefault(component_name(type(method)), set()).add(format_value(scale))
    if len({frozenset(found) for found in scales.values()}) < 2:
        return
    if all(len(found) == 1 for found in scales.values()):
        found = ", ".join(f"{name} {next(iter(scale))}" for name, scale in scales.items())
        notify(
            f"the methods are compared at different guidance scales: {found}; "
            "--method.guidance gives them the same one"
        )
