"""Statistics of a leaderboard of 3D recipes: means over objects, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import UInt8
from torch import Tensor

from limbeck.evaluation.prompt_metrics import PromptImages, seed_diversity
from limbeck.leaderboard.assets.judgment import JudgedStage
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.intervals import (
    POSITIVE,
    SHARE,
    Interval,
    paired_differences,
    prompt_means,
)

TRUE_OBJECTS = "true objects"  #: name of the row of true renders
SHARES = (
    "all",
    "object",
    "view",
    "janus",
    "fidelity",
    "color",
    "true_color",
    "color_overlap",
    "janus_side",
    "mirrored",
    "r_precision",
    "r_precision_shape",
)
DIVERSITIES = ("diversity", "feature_diversity")
Results = Mapping[tuple[str, int], JudgedStage]
"""Judged stages by object and seed."""
Values = dict[tuple[str, int], float]
"""A metric by object and seed."""
Featurize = Callable[[UInt8[Tensor, "p c 3 h w"]], PromptImages]


@dataclass(frozen=True)
class StageResults:
    """All that is judged of a stage of a row.

    Attributes:
        row: name of the row.
        stage: number and name of the stage, such as ``2 geometry``; empty for the only one.
        is_last: whether it is the last stage, whose result is that of the row.
        results: its judged runs.
        planned: number of its runs.
    """

    row: str
    stage: str
    is_last: bool
    results: Results
    planned: int

    @property
    def name(self) -> str:
        """Name in tables: that of the row for its last stage."""
        return self.row if self.is_last else f"{self.row}, stage {self.stage}"

    @property
    def stopped(self) -> int:
        """Number of runs that their own numbers stopped."""
        return sum(stage.images is None for stage in self.results.values())

    def values(self, name: str) -> Values:
        """A metric by object and seed, where it is known.

        Without normals no run has a shape to judge; that of stopped runs is then left out too.
        """
        known = {
            key: stage.metrics[name] for key, stage in self.results.items() if name in stage.metrics
        }
        if name == "r_precision_shape" and len(known) == self.stopped < len(self.results):
            return {}
        return known

    def diversities(self, featurize: Featurize) -> dict[str, Values]:
        """Diversity between seeds, in pixels and in features, by object.

        Args:
            featurize: adds the features of images.
        """
        found: dict[str, Values] = {name: {} for name in DIVERSITIES}
        for name in dict.fromkeys(name for name, _ in self.results):
            runs = [
                (seed, featurize(stage.images))
                for (own, seed), stage in self.results.items()
                if own == name and stage.images is not None
            ]
            by_metric = seed_diversity(runs)
            for metric in DIVERSITIES:
                if f"{metric}_seeds" in by_metric:
                    found[metric][name, 0] = by_metric[f"{metric}_seeds"]
        return found


@dataclass(frozen=True)
class AssetRow:
    """A row of the table.

    Attributes:
        stage: the stage.
        values: metrics, means over objects.
        differences: metrics minus those of the baseline, paired by object and seed.
        objects: share of views with the right object, by object, of each seed.
        evaluations: rows through the network of a run, earlier stages included.
        cpu_seconds: CPU seconds of a run, earlier stages included.
        steps: steps of a run, earlier stages included.
    """

    stage: StageResults
    values: Mapping[str, Estimate]
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    objects: Mapping[str, Sequence[float]] = field(default_factory=dict)
    evaluations: float = 0.0
    cpu_seconds: float = 0.0
    steps: float = 0.0


@dataclass(frozen=True)
class StageChange:
    """What a stage changes.

    Attributes:
        row: name of the row.
        later: the stage.
        earlier: the stage it is compared with.
        differences: metrics of the later one minus those of the earlier, paired by object and seed.
    """

    row: str
    later: str
    earlier: str
    differences: Mapping[str, Estimate]


def _bounds(name: str) -> Interval:
    return SHARE if name in SHARES else POSITIVE


def mean_over_objects(values: Values, bounds: Interval, is_difference: bool = False) -> Estimate:
    """Mean and 95 % interval over objects of a metric by object and seed.

    Args:
        values: the metric, at least one value.
        bounds: its smallest and largest possible value.
        is_difference: whether the values are differences of two values of the metric.
    """
    return mean_estimate(list(prompt_means(values).values()), bounds, is_difference)


def mean_change(own: Mapping[str, Values], other: Mapping[str, Values]) -> dict[str, Estimate]:
    """Mean of ``own - other`` over the objects, paired by object and seed, by metric.

    Args:
        own: metrics by object and seed.
        other: the same of what they are compared with.
    """
    changes = {}
    for name in own.keys() & other.keys():
        pairs = paired_differences(other[name], own[name])
        if pairs:
            changes[name] = mean_over_objects(pairs, _bounds(name), is_difference=True)
    return {name: changes[name] for name in (*SHARES, *DIVERSITIES) if name in changes}


def make_rows(
    stages: Sequence[StageResults], baseline: str, featurize: Featurize
) -> tuple[list[AssetRow], list[StageChange]]:
    """The rows of the table, and what each stage of a recipe changes.

    Args:
        stages: the stages, those of a row next to each other and in order.
        baseline: row that the others are compared with.
        featurize: adds the features of images.

    Returns:
        A row for each stage with results, the last one of true renders; and the changes.
    """
    started = [stage for stage in stages if stage.results]
    metrics = [
        {name: stage.values(name) for name in SHARES} | stage.diversities(featurize)
        for stage in started
    ]
    reference = next(
        (m for s, m in zip(started, metrics, strict=True) if s.row == baseline and s.is_last), {}
    )
    rows = []
    for stage, own in zip(started, metrics, strict=True):
        is_baseline = stage.row == baseline and stage.is_last
        results = list(stage.results.values())
        count = len(results)
        rows.append(
            AssetRow(
                stage,
                {n: mean_over_objects(values, _bounds(n)) for n, values in own.items() if values},
                {} if is_baseline else mean_change(own, reference),
                _by_object(own["object"]),
                sum(result.evaluations for result in results) / count,
                sum(result.cpu_seconds for result in results) / count,
                sum(result.steps for result in results) / count,
            )
        )
    rows += _true_objects(started)
    return rows, _stage_changes(started, metrics)


def _by_object(values: Values) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (name, _), value in values.items():
        found.setdefault(name, []).append(value)
    return found


def _true_objects(stages: Sequence[StageResults]) -> list[AssetRow]:
    """The row of true renders, of all objects and seeds that were judged; none without numba."""
    references = {
        key: result for stage in stages for key, result in stage.results.items() if result.reference
    }
    if not references:
        return []
    values = {
        name: {k: r.reference[name] for k, r in references.items() if name in r.reference}
        for name in SHARES
    }
    stage = StageResults(TRUE_OBJECTS, "", True, {}, 0)
    means = {n: mean_over_objects(own, _bounds(n)) for n, own in values.items() if own}
    return [AssetRow(stage, means, objects=_by_object(values["object"]))]


def _stage_changes(
    stages: Sequence[StageResults], metrics: Sequence[Mapping[str, Values]]
) -> list[StageChange]:
    """Each stage minus the one before, and the last one minus the first."""
    changes = []
    for row in dict.fromkeys(stage.row for stage in stages):
        own = [i for i, stage in enumerate(stages) if stage.row == row]
        pairs = list(zip(own[1:], own, strict=False))
        if len(own) > 2:
            pairs.append((own[-1], own[0]))
        for later, earlier in pairs:
            found = mean_change(metrics[later], metrics[earlier])
            changes.append(StageChange(row, stages[later].stage, stages[earlier].stage, found))
    return changes
