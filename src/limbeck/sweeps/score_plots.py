"""Plots of the scores of the settings of a sweep, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from limbeck.runs.report.svg_plots import interval_plot
from limbeck.runs.report.tables import score_column
from limbeck.sweeps.planned_runs import short_names
from limbeck.sweeps.results import Setting

_MAX_ROWS = 40  #: more settings would not be read in a plot


def score_plots(settings: Sequence[Setting], scores: Sequence[str]) -> list[tuple[str, Markup]]:
    """Title and SVG of each score: a row per setting, in the order of the table.

    Args:
        settings: the settings of a sweep.
        scores: names of the scores to plot.

    Returns:
        The plots; none for one setting or for more than 40.
    """
    if not 1 < len(settings) <= _MAX_ROWS:
        return []
    means = [setting.scores for setting in settings]
    labels = [_label(setting) for setting in settings]
    plots = []
    for name in scores:
        column = score_column(name)
        scale = 100.0 if column.percent else 1.0
        rows = []
        for label, own in zip(labels, means, strict=True):
            if name in own:
                low, high = own[name].interval or (0.0, 0.0)
                ends = (scale * low, scale * high) if own[name].interval is not None else None
                rows.append((label, scale * own[name].value, ends))
        title = column.label + (", %" if column.percent else "")
        plots.append((title, Markup(interval_plot(rows, zero=False))))
    return plots


def _label(setting: Setting) -> str:
    """``25`` of one option, else ``guidance 25, weight sigma``."""
    if len(setting.options) == 1:
        return next(iter(setting.options.values()))
    names = short_names(list(setting.options))
    return ", ".join(f"{names[key]} {value}" for key, value in setting.options.items())
