"""Paired differences between the values of an option: same prompt, seed and other options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.metrics.bounds import Bounds, metric_bounds
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.runs.report.tables import score_columns
from limbeck.sweeps.expansion import SEED
from limbeck.sweeps.planned_runs import format_option, label_of
from limbeck.sweeps.results import (
    RunResult,
    option_values,
    own_bounds,
    setting_options,
    varies_more_in_prompts,
)

MAX_LEVELS = 12  #: an option of more values, such as a random draw, is not compared
MAX_SETTINGS = 24  #: the same for all options together


@dataclass(frozen=True)
class Difference:
    """Scores of one value of an option minus those of another.

    Attributes:
        level: the value, as text.
        baseline: the value that is subtracted.
        pairs: number of pairs of finished runs, counted per prompt.
        scores: mean difference of each score.
    """

    level: str
    baseline: str
    pairs: int
    scores: dict[str, Estimate]

    @property
    def reversed(self) -> Difference:
        """The baseline minus the value."""
        turned = {name: -score for name, score in self.scores.items()}
        return Difference(self.baseline, self.level, self.pairs, turned)


@dataclass(frozen=True)
class Comparison:
    """Differences between all values of an option, or between all settings.

    Attributes:
        option: the option; empty for all options together.
        levels: its values, as text.
        rows: differences of the other values from each, by baseline.
    """

    option: str
    levels: list[str]
    rows: dict[str, list[Difference]]


def compare_levels(results: Sequence[RunResult]) -> list[Comparison]:
    """Compare the values of each option, and all settings if several options vary.

    Options whose runs cannot be paired, such as those that were varied together, are left out.

    Args:
        results: the results of a sweep.
    """
    options = setting_options(results)
    found = [_compare(results, (option,), MAX_LEVELS) for option in options]
    if len(options) > 1:
        found.append(_compare(results, tuple(options), MAX_SETTINGS))
    return [comparison for comparison in found if comparison is not None]


@dataclass(frozen=True)
class _ScoreTable:
    """Scores of the runs by value of an option and by what the values are paired by.

    Attributes:
        values: NaN where there is none.
        names: names of the scores.
        units: seed or prompt of each pair, as a number.
        bounds: bounds of scores of one's own, by name.
    """

    values: Float[Tensor, "levels pairs scores"]
    names: list[str]
    units: Int[Tensor, "pairs"]
    bounds: Bounds

    def difference(self, level: int, baseline: int) -> tuple[int, dict[str, Estimate]]:
        """Number of pairs, and mean difference of each score over seeds or prompts."""
        difference = self.values[level] - self.values[baseline]
        known = ~difference.isnan()
        means, has_mean = _means_by_unit(difference.where(known, 0.0), known, self.units)
        scores = {}
        for column, name in enumerate(self.names):
            own = means[has_mean[:, column], column].tolist()
            if own:
                bounds = metric_bounds(name, self.bounds)
                scores[name] = mean_estimate(own, bounds, is_difference=True)
        return int(known.any(1).sum()), scores


def _means_by_unit(
    values: Float[Tensor, "pairs scores"],
    known: Bool[Tensor, "pairs scores"],
    units: Int[Tensor, "pairs"],
) -> tuple[Float[Tensor, "units scores"], Bool[Tensor, "units scores"]]:
    """Mean of the known values of each unit, and whether there are any."""
    shape = (int(units.max()) + 1, values.shape[1])
    total = torch.zeros(shape, dtype=torch.float64).index_add_(0, units, values)
    count = torch.zeros(shape, dtype=torch.float64).index_add_(0, units, known.double())
    return total / count.clamp(min=1), count > 0


def _compare(
    results: Sequence[RunResult], options: tuple[str, ...], maximum: int
) -> Comparison | None:
    """Compare the values of some options; None if they are too many or nothing can be paired."""
    by_level: dict[str, list[RunResult]] = {}
    if len(options) == 1:
        by_level = {value: [] for value in option_values(results, options[0])}
    for result in results:
        own = {key: result.run.options[key] for key in options}
        label = format_option(own[options[0]]) if len(options) == 1 else label_of(own)
        by_level.setdefault(label, []).append(result)
    if not 1 < len(by_level) <= maximum:
        return None
    table = _score_table(list(by_level.values()), options, varies_more_in_prompts(results))
    levels, rows = list(by_level), {level: list[Difference]() for level in by_level}
    if table is None:
        return None
    for i, baseline in enumerate(levels):
        for j in range(i + 1, len(levels)):
            difference = Difference(levels[j], baseline, *table.difference(j, i))
            rows[baseline].append(difference)
            rows[levels[j]].append(difference.reversed)
    has_pairs = any(difference.pairs for own in rows.values() for difference in own)
    name = options[0] if len(options) == 1 else ""
    return Comparison(name, levels, rows) if has_pairs else None


def _score_table(
    by_level: Sequence[Sequence[RunResult]], options: tuple[str, ...], over_prompts: bool
) -> _ScoreTable | None:
    """The scores of finished runs; None if there are none."""
    cells: list[tuple[int, int, dict[str, float]]] = []
    pairs: dict[tuple[str, ...], int] = {}
    units: dict[str, int] = {}
    unit_of_pair: list[int] = []
    for level, own in enumerate(by_level):
        for result in own:
            rest = {k: format_option(v) for k, v in result.run.options.items() if k not in options}
            for prompt, row in result.prompt_scores.items():
                pair = pairs.setdefault((prompt, *rest.values()), len(pairs))
                if pair == len(unit_of_pair):
                    unit = prompt if over_prompts else rest.get(SEED, "")
                    unit_of_pair.append(units.setdefault(unit, len(units)))
                cells.append((level, pair, row))
    names = score_columns([row for _, _, row in cells])
    if not names:
        return None
    shape = (len(by_level), len(pairs), len(names))
    values = torch.full(shape, math.nan, dtype=torch.float64)
    for level, pair, row in cells:
        values[level, pair] = torch.tensor(
            [row.get(name, math.nan) for name in names], dtype=torch.float64
        )
    bounds = own_bounds([result for own in by_level for result in own])
    return _ScoreTable(values, names, torch.tensor(unit_of_pair), bounds)
