"""Main effects and interactions of the options of a sweep that has every combination of them.

A main effect is the difference that a level of an option makes, averaged over all settings of the
other options. An interaction of two options is the difference between such differences: how much
more a level does with one level of the other option than with another. Every one is computed for
each prompt and seed by itself, so that what makes a prompt easy cancels.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.metrics.bounds import Bounds, metric_bounds
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.intervals import (
    paired_differences,
    prompt_means,
)
from limbeck.runs.report.tables import score_columns
from limbeck.sweeps.planned_runs import format_option
from limbeck.sweeps.results import RunResult, own_bounds, setting_options
from limbeck.system.files import write_text

EFFECTS_FILE = "effects.csv"
_COLUMNS = ("score", "effect", "option", "from", "to", "other_option", "other_from", "other_to")
_NUMBERS = ("difference", "low", "high", "unit", "units")

Key = tuple[str, str]
"""Prompt and seed."""
Place = tuple[str, ...]
"""A level of each option."""
ScoresByPlace = Mapping[Place, Mapping[Key, float]]


class Change(NamedTuple):
    """A change of one option.

    Attributes:
        option: the option, with its dots.
        low: the level that is compared with, the first or the smallest one.
        high: another level.
    """

    option: str
    low: str
    high: str


@dataclass(frozen=True)
class Effect:
    """What a change of one option does to a score, or how that depends on another option.

    Attributes:
        score: name of the score.
        change: the change.
        other: the second change of an interaction; None for a main effect.
        difference: main effect: ``high`` minus ``low``, mean over the other options. Interaction:
            that difference at the ``high`` of ``other`` minus that at its ``low``.
        unit: ``prompts`` or ``seeds``: what the interval is over.
    """

    score: str
    change: Change
    other: Change | None
    difference: Estimate
    unit: str


@dataclass(frozen=True)
class Factorial:
    """The scores of a sweep by setting, where every combination of its options is present.

    Attributes:
        levels: levels by option, numbers by size and others in the order of the runs.
        scores: score by name, setting, prompt and seed; those of a score are the same in every
            setting.
        left_out: pairs of prompt and seed that are not finished in every setting.
        lacking: further pairs that a score lacks in some setting, by its name; if these are all
            pairs, it is not in ``scores``.
        bounds: bounds of scores of one's own, by name.
    """

    levels: Mapping[str, Sequence[str]]
    scores: Mapping[str, ScoresByPlace]
    left_out: int
    lacking: Mapping[str, int] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=dict)


def factorial_of(results: Sequence[RunResult]) -> Factorial | None:
    """The sweep as a full factorial design.

    Args:
        results: the results of a sweep.

    Returns:
        The design; None if fewer than two options have several values beside the seed, some
        combination of their values was not asked for, or no seed is finished in all of them.
    """
    options = _varied_options(results)
    places = {_place(result, options) for result in results}
    levels = {option: _levels(results, option) for option in options}
    if len(options) < 2 or len(places) != math.prod(map(len, levels.values())):
        return None
    by_place: dict[Place, dict[Key, Mapping[str, Any]]] = {place: {} for place in places}
    for result in results:
        by_place[_place(result, options)] |= _prompt_scores(result)
    everywhere = set.intersection(*(set(rows) for rows in by_place.values()))
    rows = [row for own in by_place.values() for key, row in own.items() if key in everywhere]
    scores: dict[str, ScoresByPlace] = {}
    lacking: dict[str, int] = {}
    for name in score_columns(rows):
        shared = [
            key
            for key in sorted(everywhere)
            if all(_is_number(own[key].get(name)) for own in by_place.values())
        ]
        if shared:
            scores[name] = {
                place: {key: own[key][name] for key in shared} for place, own in by_place.items()
            }
        if number := len(everywhere) - len(shared):
            lacking[name] = number
    if not scores:
        return None
    found = set.union(*(set(rows) for rows in by_place.values()))
    left_out = len(found - everywhere)
    return Factorial(levels, scores, left_out, lacking, own_bounds(results))


def effects_of(design: Factorial) -> list[Effect]:
    """Main effects and two-way interactions of every score, main effects first.

    Options with more than two levels have one main effect per further level, each against the
    first one.

    Args:
        design: the scores of a full factorial sweep.
    """
    changes = [
        [Change(option, levels[0], high) for high in levels[1:]]
        for option, levels in design.levels.items()
    ]
    pairs: list[tuple[Change, Change | None]] = [(c, None) for own in changes for c in own]
    for first, second in itertools.combinations(changes, 2):
        pairs += itertools.product(first, second)
    options = list(design.levels)
    return [
        _effect(name, design, options, change, other)
        for name in design.scores
        for change, other in pairs
    ]


def write_effects(results: Sequence[RunResult], root: Path) -> Path | None:
    """Write ``effects.csv`` of a full factorial sweep; that of an earlier command is removed.

    Args:
        results: the results.
        root: folder of the sweep.

    Returns:
        The file; None if there are no effects, see ``factorial_of``.
    """
    path, design = root / EFFECTS_FILE, factorial_of(results)
    if design is None:
        path.unlink(missing_ok=True)
        return None
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_COLUMNS, *_NUMBERS])
    for effect in effects_of(design):
        kind = "main" if effect.other is None else "interaction"
        ends = effect.difference.interval or (None, None)
        changes = [*effect.change, *(effect.other or (None, None, None))]
        numbers = [effect.difference.value, *ends, effect.unit, effect.difference.num_units]
        writer.writerow([effect.score, kind, *changes, *numbers])
    write_text(path, buffer.getvalue())
    return path


def _varied_options(results: Sequence[RunResult]) -> list[str]:
    """Options that have several values, the first one of those whose values go together.

    Left out are those that say what a setting is tried on.
    """
    options = setting_options(results)
    varied: dict[str, int] = {}
    for option in options:
        count = len(_levels(results, option))
        together = (
            other
            for other, levels in varied.items()
            if len({_place(result, (other, option)) for result in results}) == count == levels
        )
        if count > 1 and next(together, None) is None:
            varied[option] = count
    return list(varied)


def _place(result: RunResult, options: Sequence[str]) -> Place:
    return tuple(format_option(result.run.options[option]) for option in options)


def _levels(results: Sequence[RunResult], option: str) -> list[str]:
    values = {format_option(r.run.options[option]): r.run.options[option] for r in results}
    if all(_is_number(value) for value in values.values()):
        return sorted(values, key=values.__getitem__)
    return list(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _prompt_scores(result: RunResult) -> dict[Key, Mapping[str, Any]]:
    """Scores by prompt and seed of a finished run."""
    seed = str(next(iter(result.run.stages.values())).seed)
    return {(prompt, seed): row for prompt, row in result.prompt_scores.items()}


def _effect(
    score: str,
    design: Factorial,
    options: Sequence[str],
    change: Change,
    other: Change | None,
) -> Effect:
    scores = design.scores[score]
    if other is None:
        values, sides = _main_effect(scores, options, change), 1
    else:
        column = options.index(other.option)
        low, high = (
            {place: rows for place, rows in scores.items() if place[column] == level}
            for level in (other.low, other.high)
        )
        values = paired_differences(
            _main_effect(low, options, change), _main_effect(high, options, change)
        )
        sides = 2
    units, by_seed = prompt_means(values), prompt_means({key[::-1]: values[key] for key in values})
    unit = "prompts" if len(units) > len(by_seed) else "seeds"
    units = units if unit == "prompts" else by_seed
    least, most = metric_bounds(score, design.bounds)
    bounds = (least, most) if sides == 1 else (least - most, most - least)
    estimate = mean_estimate(list(units.values()), bounds, is_difference=True)
    return Effect(score, change, other, estimate, unit)


def _main_effect(scores: ScoresByPlace, options: Sequence[str], change: Change) -> dict[Key, float]:
    """The difference of two levels for each prompt and seed, mean over the other options."""
    column = options.index(change.option)
    low, high = (
        _mean_rows([rows for place, rows in scores.items() if place[column] == level])
        for level in (change.low, change.high)
    )
    return paired_differences(low, high)


def _mean_rows(rows: Sequence[Mapping[Key, float]]) -> dict[Key, float]:
    return {key: math.fsum(own[key] for own in rows) / len(rows) for key in rows[0]}
