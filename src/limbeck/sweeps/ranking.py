"""The settings of a search by their score, and the command that runs the best one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.runs.report.tables import score_column, score_text
from limbeck.sweeps.expansion import SEED, Search, Sweep, flatten, nest
from limbeck.sweeps.planned_runs import format_option, label_of
from limbeck.sweeps.results import RunResult

_SHOWN = 10  #: settings on the page


@dataclass(frozen=True)
class RankedSetting:
    """A setting all of whose seeds are finished.

    Attributes:
        options: its options.
        score: mean score over prompts and seeds.
        num_seeds: number of runs.
    """

    options: Mapping[str, Any]
    score: float
    num_seeds: int


def ranked_settings(results: Sequence[RunResult], search: Search) -> list[RankedSetting]:
    """The settings, best first; those with runs that are not finished are left out.

    Args:
        results: the results of a search.
        search: what it searches for.
    """
    groups: dict[tuple[str, ...], list[RunResult]] = {}
    for result in results:
        key = tuple(format_option(v) for k, v in result.run.options.items() if k != SEED)
        groups.setdefault(key, []).append(result)
    found = []
    for own in groups.values():
        scores = [result.mean_scores.get(search.score) for result in own]
        values = [score for score in scores if score is not None]
        if len(values) == len(own):
            options = {k: v for k, v in own[0].run.options.items() if k != SEED}
            found.append(RankedSetting(options, sum(values) / len(values), len(values)))
    return sorted(found, key=lambda setting: setting.score, reverse=search.maximize)


def run_command(sweep: Sweep, setting: RankedSetting) -> str:
    """The command line that runs a setting once.

    Args:
        sweep: the sweep.
        setting: the setting.
    """
    options = flatten(nest({**sweep.fixed, **setting.options}))
    prompts = options.pop("prompts", ())
    words = ["limbeck", "run", *([prompts] if isinstance(prompts, str) else map(str, prompts))]
    if sweep.seeds:
        options[SEED] = sweep.seeds[0]
    for key, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{key.replace('_', '-')}", *map(_word, values)]
    return shlex.join(words)


def _word(value: Any) -> str:
    """A value as a word of the command line, a number with all digits."""
    if value is None:
        return "none"
    return repr(value) if isinstance(value, float) else format_option(value)


def best_line(results: Sequence[RunResult], sweep: Sweep) -> str:
    """The best setting and its command, in two lines; empty if none is finished.

    Args:
        results: the results of the sweep.
        sweep: the sweep.
    """
    if sweep.search is None or not (ranked := ranked_settings(results, sweep.search)):
        return ""
    best, score = ranked[0], sweep.search.score
    formatted = f"{score_column(score).label} {score_text(best.score, score)}"
    seeds = f"mean over {best.num_seeds} seeds" if best.num_seeds > 1 else "one seed"
    return (
        f"best of {len(ranked)} settings: {label_of(best.options)}: {formatted} ({seeds})\n"
        f"to run it: {run_command(sweep, best)}"
    )


def search_section(results: Sequence[RunResult], sweep: Sweep) -> dict[str, Any] | None:
    """Content of the section of the page; None if nothing is searched for or finished.

    Args:
        results: the results of a sweep.
        sweep: the sweep.
    """
    if sweep.search is None or not (ranked := ranked_settings(results, sweep.search)):
        return None
    name = sweep.search.score
    return {
        "word": "largest" if sweep.search.maximize else "smallest",
        "score": score_column(name).label,
        "count": len(ranked),
        "num_seeds": ranked[0].num_seeds,
        "command": run_command(sweep, ranked[0]),
        "rows": [(label_of(s.options), score_text(s.score, name)) for s in ranked[:_SHOWN]],
    }
