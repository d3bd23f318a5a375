"""Tables in Markdown: values with their intervals, differences bold where they exclude zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from limbeck.metrics.estimate import Estimate


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """A table, its first row the head.

    Args:
        table: texts by row.
    """
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


def value_text(value: Estimate | None, number: Callable[[float], str]) -> str:
    """A value with its interval, as ``84 % [76, 90]``; empty for None.

    Args:
        value: the value.
        number: a number as text, possibly with its unit.
    """
    if value is None:
        return ""
    own = number(value.value)
    if value.interval is None:
        return own
    low, high = (number(end).removesuffix(" %") for end in value.interval)
    return f"{own} [{low}, {high}]"


def difference_text(value: Estimate | None, number: Callable[[float], str]) -> str:
    """The same, bold if its interval excludes zero.

    Args:
        value: the difference.
        number: a number as text, possibly with its unit.
    """
    text = value_text(value, number)
    return f"**{text}**" if value is not None and value.excludes_zero else text
