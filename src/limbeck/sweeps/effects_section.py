"""The effects of the options of a sweep on its page: a table, and a plot for each score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from limbeck.runs.report.svg_plots import interval_plot
from limbeck.runs.report.tables import DifferenceCell, difference_cell, score_column
from limbeck.sweeps.effects import EFFECTS_FILE, Effect, Factorial, effects_of, factorial_of
from limbeck.sweeps.planned_runs import short_names
from limbeck.sweeps.results import RunResult

_MAX_ROWS = 40  #: with more effects, the interactions are in the file only
_CHANCE = 0.05  #: share of 95 % intervals that exclude zero where there is no effect


def effects_section(results: Sequence[RunResult]) -> dict[str, Any] | None:
    """Content of the section; None if there are no effects, see ``factorial_of``.

    Args:
        results: the results of a sweep.
    """
    design = factorial_of(results)
    if design is None:
        return None
    effects = effects_of(design)
    names = short_names(list(design.levels))
    by_label: dict[str, list[Effect]] = {}
    for effect in effects:
        by_label.setdefault(_label(effect, design, names), []).append(effect)
    hidden = 0
    if len(by_label) > _MAX_ROWS:
        shown = {label: own for label, own in by_label.items() if own[0].other is None}
        hidden, by_label = len(by_label) - len(shown), shown
    first = effects[0]
    count = sum(map(len, by_label.values()))
    by_chance = round(_CHANCE * count)
    return {
        "options": [names[option] for option in design.levels],
        "columns": list(design.scores),
        "rows": [
            (label, [difference_cell(e.difference, e.score) for e in own])
            for label, own in by_label.items()
        ],
        "num_main": sum(own[0].other is None for own in by_label.values()),
        "plots": _plots(by_label, list(design.scores)),
        "unit": first.unit,
        "count": first.difference.num_units,
        "has_intervals": first.difference.interval is not None,
        "left_out": design.left_out,
        "lacking": _lacking(design),
        "hidden": hidden,
        "shown": count,
        "by_chance": f"about {by_chance}" if by_chance else "less than one",
        "file": EFFECTS_FILE,
    }


def _lacking(design: Factorial) -> list[str]:
    """A sentence on each score that some setting lacks."""
    found = []
    for name, number in design.lacking.items():
        label = score_column(name).label
        if name not in design.scores:
            found.append(f"{label} is left out, as no prompt has it in every setting.")
            continue
        pairs = "1 pair of prompt and seed" if number == 1 else f"{number} pairs of prompt and seed"
        found.append(f"{label} is without {pairs} that lack it in some setting.")
    return found


def _label(effect: Effect, design: Factorial, names: Mapping[str, str]) -> str:
    """``guidance 7.5 to 25``; ``guidance x weight``, with levels where there are more than two."""
    change, other = effect.change, effect.other
    if other is None:
        return f"{names[change.option]}: {change.low} \N{RIGHTWARDS ARROW} {change.high}"
    parts = [
        names[c.option] + (f" {c.high}" if len(design.levels[c.option]) > 2 else "")
        for c in (change, other)
    ]
    return " \N{MULTIPLICATION SIGN} ".join(parts)


def _cell(effect: Effect) -> DifferenceCell:
    return difference_cell(effect.difference, effect.score)


def _plots(by_label: Mapping[str, Sequence[Effect]], scores: Sequence[str]) -> list[Any]:
    """Title and SVG of each score."""
    num_main = sum(own[0].other is None for own in by_label.values())
    plots = []
    for number, name in enumerate(scores):
        column = score_column(name)
        scale = 100.0 if column.percent else 1.0
        rows = []
        for label, own in by_label.items():
            effect = own[number]
            low, high = effect.difference.interval or (0.0, 0.0)
            ends = (scale * low, scale * high) if effect.difference.interval is not None else None
            rows.append((label, scale * effect.difference.value, ends))
        title = column.label + (", percentage points" if column.percent else "")
        plots.append((title, Markup(interval_plot(rows, num_main))))
    return plots
