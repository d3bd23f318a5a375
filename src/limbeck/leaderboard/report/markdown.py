"""Tables in Markdown: values with their intervals, differences bold where they exclude zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from limbeck.metrics.estimate import Estimate


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """A table, its first row the head.

    Args:
        table: texts by row; the ``|`` of names is escaped.
    """
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in table]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
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
    """The same of a difference, in points if it is one of shares; bold if it excludes zero.

    An end of a bold interval that would be shown as zero has more digits.

    Args:
        value: the difference.
        number: a number as text, possibly with its unit.
    """
    if value is None:
        return ""
    own = number(value.value)
    text = own.replace(" %", " points")
    if value.interval is None:
        return text
    ends = [number(end).removesuffix(" %") for end in value.interval]
    if value.excludes_zero:
        scale = 100 if own.endswith(" %") else 1
        ends = [
            end if end.strip("-0.") else f"{scale * exact:.1g}"
            for end, exact in zip(ends, value.interval, strict=True)
        ]
    text = f"{text} [{', '.join(ends)}]"
    return f"**{text}**" if value.excludes_zero else text
