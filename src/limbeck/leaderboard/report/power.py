"""The difference that a table of some size can find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from limbeck.metrics.estimate import Estimate

_POWER = 2.8 / 1.96  #: difference found in 80 % of tables, in half widths of a 95 % interval


def power_sentence(
    rows: Sequence[Mapping[str, Estimate]],
    metrics: Sequence[str],
    baseline: str,
    words: Callable[[str, float], str],
) -> str:
    """The difference that a table finds in four of five cases, by the median of its intervals.

    Args:
        rows: differences to the baseline of each row, by metric.
        metrics: metrics to speak of.
        baseline: what rows are compared with.
        words: a difference of a metric as text, such as ``7 points in object``.

    Returns:
        A sentence; empty if no difference has an interval.
    """
    found = []
    for name in metrics:
        intervals = [row[name].interval for row in rows if name in row]
        widths = sorted((high - low) / 2 for low, high in filter(None, intervals))
        if widths:
            found.append(words(name, _POWER * widths[len(widths) // 2]))
    if not found:
        return ""
    return (
        f"A table of this size finds a difference to {baseline} in four of five cases if it is at "
        f"least {', '.join(found)}."
    )
