"""The options in which the runs of a comparison differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from limbeck.runs.report.run_data import RunData


class OptionRow(NamedTuple):
    """An option that differs between runs.

    Attributes:
        name: dotted name of the option.
        values: its value in each run, None where it does not exist.
        unusual: for each run, whether the value is not the most common one.
    """

    name: str
    values: list[str | None]
    unusual: list[bool]


def differing_options(folders: Sequence[RunData]) -> list[OptionRow]:
    """Options that differ between runs.

    Options of samples, and options that only one component has, are not compared.
    """
    options = [_flatten(data.config) for data in folders]
    runs = [flat for data, flat in zip(folders, options, strict=True) if not data.is_sampling]
    rows = []
    for name in dict.fromkeys(name for flat in runs or options for name in flat):
        if len({flat[name] for flat in runs or options if name in flat}) > 1:
            values = [flat.get(name) for flat in options]
            usual = max(values, key=values.count)
            unusual = [value is not None and value != usual for value in values]
            rows.append(OptionRow(name, values, unusual))
    return rows


def _flatten(value: Any, name: str = "") -> dict[str, str]:
    """Options with dotted names, values as text."""
    if not isinstance(value, dict):
        return {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
    flat: dict[str, str] = {}
    for key, part in value.items():
        flat |= _flatten(part, f"{name}.{key}" if name else str(key))
    return flat
