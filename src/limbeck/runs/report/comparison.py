"""What the page that compares several runs shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from limbeck.runs.report import svg_plots
from limbeck.runs.report.option_differences import differing_options
from limbeck.runs.report.page_images import PageImage
from limbeck.runs.report.run_data import RunData
from limbeck.runs.report.tables import score_columns

#: options already named in the caption of a run
_CAPTION_OPTIONS = ("prompts", "model", "method.name", "method.guidance", "steps", "particles")


class ComparisonRow(NamedTuple):
    """A run in a comparison: its line color, final images by prompt and mean scores.

    A run without final images has the newest recorded ones of all prompts in one.
    """

    run: RunData
    color: str
    images: dict[str, list[PageImage]]
    mean: dict[str, float]
    newest: list[PageImage]


def comparison_content(runs: Sequence[RunData]) -> dict[str, Any]:
    """What the page of a comparison shows.

    Args:
        runs: the runs that are compared.
    """
    colors = svg_plots.line_colors(len(runs))
    rows = [
        ComparisonRow(
            run, color, _finals_by_prompt(run), run.scores.get("mean", {}), _newest_image(run)
        )
        for run, color in zip(runs, colors, strict=True)
    ]
    plots = svg_plots.comparison_plots([(row.run.metrics, row.color) for row in rows])
    return {
        "rows": rows,
        "prompts": list(dict.fromkeys(prompt for run in runs for prompt in run.prompts)),
        "columns": score_columns([row.mean for row in rows]),
        "plots": [(title, Markup(svg)) for title, svg in plots],
        "options": differing_options(runs),
        "caption_options": _CAPTION_OPTIONS,
        "last_values": _last_values(runs),
    }


def _finals_by_prompt(run: RunData) -> dict[str, list[PageImage]]:
    """Final images of each prompt, of which a run may have several, as edits of two photos."""
    images: dict[str, list[PageImage]] = {}
    for prompt, own in run.finals():
        images.setdefault(prompt, []).extend(own)
    return images


def _newest_image(run: RunData) -> list[PageImage]:
    """The newest recorded image of a run without final images; empty if there is none."""
    has_finals = any(images for _, images in run.finals())
    return [] if has_finals else run.images_at(run.image_steps()[-1:], "")


def _last_values(runs: Sequence[RunData]) -> dict[str, Any]:
    """The last recorded value of every metric of the runs; empty if all of them are finished.

    An unfinished run has no scores, but what it has recorded can be compared.
    """
    if not any(run.unfinished for run in runs):
        return {}
    series = [svg_plots.last_values(run.metrics) for run in runs]
    names = list(dict.fromkeys(name for values in series for name in values))
    return {
        "titles": [svg_plots.metric_title(name) for name in names],
        "rows": [
            [f"{values[name]:.4g}" if name in values else "\N{EN DASH}" for name in names]
            for values in series
        ],
    }
