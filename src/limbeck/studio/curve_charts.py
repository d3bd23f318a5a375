"""Small charts of metrics over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from limbeck.studio.run_watch import Curve

#: charts that are shown first, in their order
_FIRST = ("residual", "gradient", "critic", "grad_norm", "alpha", "t")
_MAX_CHARTS = 6
_COLOR = "#b83b4d"
_LOG_RATIO = 20.0  #: a positive curve that spans more has a logarithmic axis


class CurveCharts:
    """A grid of charts, one per metric, and a choice of the metrics."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.charts: dict[str, ui.echart] = {}
        self.names = ui.select([], label="curves", multiple=True, value=[])
        self.names.props("dense outlined use-chips").classes("w-full").mark("curves")
        self.names.set_visibility(False)
        self.grid = ui.element("div").classes("grid grid-cols-1 sm:grid-cols-2 gap-2 w-full")
        self.names.on_value_change(self._draw)

    def show(self, curves: Mapping[str, Curve]) -> None:
        """Draw curves; new metrics join the choice, and the first of them are shown."""
        is_first = not self.curves
        self.curves = dict(curves)
        known = [name for name in _FIRST if name in curves]
        names = [*known, *(name for name in curves if name not in known)]
        if names != self.names.options:
            self.names.options = names
            self.names.set_visibility(True)
            if is_first:
                self.names.value = names[:_MAX_CHARTS]
            self.names.update()
        self._draw()

    def _draw(self) -> None:
        chosen = [name for name in self.names.value if name in self.curves]
        if chosen != list(self.charts):
            self.grid.clear()
            with self.grid:
                self.charts = {name: ui.echart({}).classes("h-44 w-full") for name in chosen}
        for name, chart in self.charts.items():
            chart.options.update(chart_options(name, self.curves[name]))
            chart.update()


def chart_options(name: str, curve: Curve) -> dict[str, Any]:
    """Options of Apache ECharts for a curve.

    Args:
        name: title.
        curve: what is drawn.
    """
    low, high = min(curve.values), max(curve.values)
    is_log = low > 0 and high / low > _LOG_RATIO
    return {
        "animation": False,
        "title": {
            "text": name.replace("_", " ") + (", log scale" if is_log else ""),
            "textStyle": {"fontSize": 12},
        },
        "grid": {"left": 8, "right": 12, "top": 30, "bottom": 8, "containLabel": True},
        "tooltip": {"trigger": "axis"},
        "xAxis": {
            "type": "value",
            "max": "dataMax",
            "splitLine": {"show": False},
            "axisLabel": {"hideOverlap": True},
        },
        "yAxis": {"type": "log" if is_log else "value", "scale": True, "splitNumber": 3},
        "series": [
            {
                "type": "line",
                "showSymbol": len(curve.steps) == 1,
                "lineStyle": {"width": 1.5},
                "color": _COLOR,
                "data": [
                    [step, float(f"{value:.4g}")]
                    for step, value in zip(curve.steps, curve.values, strict=True)
                ],
            }
        ],
    }
