"""Rows of a leaderboard on an exact prior, with intervals whose unit is the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from limbeck.leaderboard.exact_priors.cells import NO_STEP, TRUE_DRAWS, ExactResult
from limbeck.leaderboard.exact_priors.conduct import ExactRow
from limbeck.leaderboard.execution.text_to_image import Budget
from limbeck.leaderboard.report.judged_row import JudgedRow
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.intervals import POSITIVE, SHARE, UNBOUNDED, Interval

MINUS_TRUE, MINUS_START = "minus_true_draws", "minus_no_step"  #: of the energy distance
_REFERENCES = {MINUS_TRUE: TRUE_DRAWS, MINUS_START: NO_STEP}
_BOUNDS: Mapping[str, Interval] = {
    "sliced_wasserstein": POSITIVE,
    "mode_error": SHARE,
    "spread": POSITIVE,
    "diverged": SHARE,
}


def judge_exact_rows(rows: Sequence[ExactRow], num_modes: int, folder: Path) -> list[JudgedRow]:
    """Judge all rows.

    Particles of one run may depend on each other, by a critic or a kernel, so the run is one
    observation. Runs of the same seed start from the same particles and are compared with the same
    true samples, so differences are paired by seed.

    Args:
        rows: the rows, computed; true draws and no step among them.
        num_modes: modes of the law with weight, 0 if it has none.
        folder: folder of the leaderboard.
    """
    results = {(row.name, row.budget): row.load(folder) for row in rows}
    judged = []
    for row in rows:
        own = results[row.name, row.budget]
        values = _by_seed(own)
        found = {name: mean_estimate(x, _bounds(name, num_modes)) for name, x in values.items()}
        found |= _minus_references(row, values["energy_distance"], results)
        differences = _minus_sds(row.name, row.budget, values, results, num_modes)
        count = len(own)
        judged.append(
            JudgedRow(
                row.name,
                row.budget,
                row.setting,
                found,
                differences,
                steps=own[0].steps,
                passes=sum(result.passes for result in own) / count,
                seconds=sum(result.seconds for result in own) / count,
            )
        )
    return judged


def _by_seed(results: Sequence[ExactResult]) -> dict[str, list[float]]:
    values = {name: [own.values[name] for own in results] for name in results[0].values}
    return values | {"diverged": [float(own.diverged) for own in results]}


def _bounds(name: str, num_modes: int) -> Interval:
    return (0.0, float(num_modes)) if name == "modes" else _BOUNDS.get(name, UNBOUNDED)


def _minus_references(
    row: ExactRow,
    distances: Sequence[float],
    results: Mapping[tuple[str, Budget], Sequence[ExactResult]],
) -> dict[str, Estimate]:
    """Energy distance minus that of true draws and of no step, paired by seed."""
    out = {}
    for metric, name in _REFERENCES.items():
        if row.name not in (name, TRUE_DRAWS):
            others = [own.values["energy_distance"] for own in results[name, row.budget]]
            out[metric] = mean_estimate([a - b for a, b in zip(distances, others, strict=True)])
    return out


def _minus_sds(
    name: str,
    budget: Budget,
    values: Mapping[str, Sequence[float]],
    results: Mapping[tuple[str, Budget], Sequence[ExactResult]],
    num_modes: int,
) -> dict[str, Estimate]:
    """Differences to SDS at the same budget, paired by seed."""
    if name in ("sds", TRUE_DRAWS) or ("sds", budget) not in results:
        return {}
    others = _by_seed(results["sds", budget])
    out = {}
    for metric, own in values.items():
        differences = [a - b for a, b in zip(own, others[metric], strict=True)]
        out[metric] = mean_estimate(differences, _bounds(metric, num_modes), is_difference=True)
    return out


def ordered_exact_rows(rows: Sequence[JudgedRow], budget: Budget) -> list[JudgedRow]:
    """The rows of a budget by energy distance, true draws first.

    Args:
        rows: the judged rows.
        budget: what is equal for all methods.
    """
    own = [row for row in rows if row.budget == budget]
    return sorted(
        own, key=lambda row: (row.name != TRUE_DRAWS, row.values["energy_distance"].value)
    )
