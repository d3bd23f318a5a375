"""The table of a leaderboard on an exact prior in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from limbeck.leaderboard.exact_priors.judgment import MINUS_START, MINUS_TRUE, ordered_exact_rows
from limbeck.leaderboard.exact_priors.protocol import ExactLeaderboard
from limbeck.leaderboard.execution.text_to_image import Budget
from limbeck.leaderboard.report.judged_row import JudgedRow, setting_text
from limbeck.leaderboard.report.markdown import (
    difference_text,
    markdown_table,
    value_text,
)

#: columns: metric, heading, digits after the point
EXACT_COLUMNS = (
    ("energy_distance", "energy distance", 3),
    (MINUS_TRUE, "minus true draws", 3),
    (MINUS_START, "minus no step", 3),
    ("sliced_wasserstein", "sliced Wasserstein", 3),
    ("mode_error", "mode error", 2),
    ("modes", "modes", 1),
    ("spread", "spread", 2),
    ("log_p", "mean log p", 1),
    ("diverged", "diverged", 2),
)
COMPARED = ("energy_distance", "modes")  #: columns whose difference to SDS is shown
DIFFERENCES = (MINUS_TRUE, MINUS_START)  #: columns that are differences themselves
_DIGITS = {name: digits for name, _, digits in EXACT_COLUMNS}
_HEADINGS = {name: heading for name, heading, _ in EXACT_COLUMNS}
_NOTES = {
    "energy_distance": "*True draws*: as many independent draws from the law, the floor of every "
    "distance. *No step*: the noise that runs start from. *Minus* them: of the energy distance; a "
    "row that is not closer than *no step* may beat SDS only by moving less.",
    "mode_error": "*Mode error*: half the sum of abs(share - weight) over the modes.",
    "modes": "*Modes*: those that hold at least a quarter of their weight.",
    "spread": "*Spread*: distance from the nearest mean, in units of that of the component: 1 for "
    "the law if its modes lie apart, 0 for points.",
    "log_p": "*Mean log p*: its right value is that of true draws, above is too likely.",
    "diverged": "*Diverged*: share of runs that were stopped by a value that is not finite.",
}
_INTERVALS = (
    "In brackets 95 % intervals over seeds; differences are paired by seed, and bold where the "
    "interval excludes zero."
)


def exact_number(name: str, value: float) -> str:
    """A value of a metric, with the digits of its column; ``1.2e+05`` where it is large.

    Args:
        name: the metric.
        value: its value.
    """
    if abs(value) >= 1e5:
        return f"{value:.1e}"
    return f"{value:z.{_DIGITS[name]}f}"


def exact_heading(name: str) -> str:
    """The heading of a column.

    Args:
        name: the metric.
    """
    return _HEADINGS[name]


def shown_columns(rows: Sequence[JudgedRow]) -> list[str]:
    """The metrics that the rows have; without ``diverged`` if no run was stopped.

    Args:
        rows: the judged rows.
    """
    names = [name for name in _HEADINGS if any(name in row.values for row in rows)]
    stopped = any(row.values["diverged"].value > 0 for row in rows)
    return [name for name in names if name != "diverged" or stopped]


def exact_title(board: ExactLeaderboard, budget: Budget) -> str:
    """What is equal for all rows of a table.

    Args:
        board: the leaderboard.
        budget: which of the two tables.
    """
    if budget == "passes":
        return f"{board.passes} network passes per particle"
    return f"{board.iterations} steps"


def chance_text(rows: Sequence[JudgedRow], board: ExactLeaderboard) -> str:
    """How many of the differences would exclude zero by chance; empty if there are none.

    Args:
        rows: the judged rows of both budgets.
        board: the leaderboard.
    """
    found = [row.values[name] for row in rows for name in DIFFERENCES if name in row.values]
    found += [row.differences[name] for row in rows for name in COMPARED if name in row.differences]
    if not found or board.seeds < 2:
        return ""
    clear, expected = sum(value.excludes_zero for value in found), len(found) / 20
    by_chance = "about one" if expected < 1.5 else f"about {expected:.0f}"
    by_chance = "fewer than one" if expected < 0.75 else by_chance
    return (
        f"Of {len(found)} differences {clear} exclude zero; if no method differed, {by_chance} "
        "would by chance."
    )


def exact_rows_to_markdown(board: ExactLeaderboard, rows: Sequence[JudgedRow]) -> str:
    """The tables of both budgets.

    Args:
        board: the leaderboard.
        rows: the judged rows.
    """
    parts = []
    budgets: tuple[Budget, ...] = ("passes", "iterations")
    for budget in budgets:
        own = ordered_exact_rows(rows, budget)
        if not own:
            continue
        parts += [f"At {exact_title(board, budget)}, {_size_text(board)}:", _table(own)]
    notes = [note for name, note in _NOTES.items() if name in shown_columns(rows)]
    parts += ["\n".join([*notes, _INTERVALS]), chance_text(rows, board)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _size_text(board: ExactLeaderboard) -> str:
    seeds = f"{board.seeds} {'seed' if board.seeds == 1 else 'seeds'}"
    return f"{board.model} given *{board.prompt}*, {seeds} of {board.particles} particles"


def _table(rows: Sequence[JudgedRow]) -> str:
    names = shown_columns(rows)
    compared = [name for name in COMPARED if any(name in row.differences for row in rows)]
    head = ["", *map(exact_heading, names)]
    head += [f"{exact_heading(name)} minus SDS" for name in compared]
    head += ["guidance, lr", "steps", "passes", "s per run"]
    table = [head]
    for row in rows:
        cells = []
        for name in names:
            text = difference_text if name in DIFFERENCES else value_text
            cells.append(text(row.values.get(name), partial(exact_number, name)))
        for name in compared:
            cells.append(difference_text(row.differences.get(name), partial(exact_number, name)))
        costs = [str(row.steps), f"{row.passes:.0f}", f"{row.seconds:.1f}"]
        cells += [setting_text(row.setting), *costs] if row.setting else [""] * 4
        table.append([row.name, *cells])
    return markdown_table(table)
