"""Static reports: the page of one run, and the comparison of several. One file, no network, no scripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from limbeck.runs.images import VIEW_NAMES
from limbeck.runs.report import svg_plots as plots
from limbeck.runs.report.run_data import PageImage, RunData, differing_options, read_run_data
from limbeck.runs.report.tables import PROFILE_LABELS, SCORES, score_columns, score_text, seconds_text
from limbeck.system.flops import format_si

_TEMPLATES = Path(__file__).parent
_MAX_STEPS = 12  #: at most so many recorded steps are shown


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one folder (report.html in it) or the comparison of several (comparison.html beside them), or to ``out``.

    Folders are those of runs, finished or not, and of samples. Raises ValueError where one is neither.
    """
    if not folders:
        raise ValueError("a report needs at least one run folder")
    left = [read_run_data(Path(folder)) for folder in folders]
    if len(left) == 1:
        page = out or left[0].path / "report.html"
        return _save(page, "run.html.j2", _run_content(left[0], page))
    parent = Path(os.path.commonpath([one.path.resolve().parent for one in left]))
    return _save(out or parent / "comparison.html", "comparison.html.j2", _comparison_content(left))


def _save(out: Path, template: str, content: dict[str, Any]) -> Path:
    # prompts are anybody's text: everything is escaped but our own style and plots
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    env.lstrip_blocks = True
    env.filters["score"], env.filters["seconds"] = score_text, seconds_text
    env.globals["style"] = Markup((_TEMPLATES / "style.css").read_text())
    env.globals["score_help"] = SCORES
    text = env.get_template(template).render(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(text)
    os.replace(part, out)
    return out


def _run_content(left: RunData, page: Path) -> dict[str, Any]:
    steps = left.recorded()
    # the first and the last are always among them
    shown = (
        steps
        if len(steps) <= _MAX_STEPS
        else [steps[round(i * (len(steps) - 1) / (_MAX_STEPS - 1))] for i in range(_MAX_STEPS)]
    )
    rows = left.scores.get("prompts", [])
    return {
        "left": left,
        "finals": left.finals(),
        "turns": left.turns(page),
        "edited": left.edits(),
        "each": len(VIEW_NAMES) if left.sided else int(left.settings.get("particles", 1)),
        "film": left.film(),
        "strips": _strips(left, shown),
        "gradients": left.strip(shown, "-gradient"),
        "top": left.gradient_top(),
        "curves": [(title, Markup(svg)) for title, svg in plots.metric_plots(left.metrics)],
        "columns": score_columns(rows),
        "rows": rows,
        "standing": _evaluation_table(left),
        "parts": _profile_rows(left),
        "counted": bool(left.cost.get("bytes")),
        "flops": format_si(sum(left.cost.get("flops", {}).values()), "FLOP"),
    }


def _evaluation_table(left: RunData) -> dict[str, Any]:
    """The figures of ``eval.json`` as a table: of every prompt, of each of several particles, and of the true object; and by camera
    what was seen. Empty where there is none."""
    rows: list[tuple[str, str, dict[str, Any]]] = []  # kind, name, figures
    for told in left.judged.get("prompts", []):
        rows.append(("", told["prompt"], told))
        each = told.get("particles", [])
        rows += (
            [("own", f"particle {i}", figures) for i, figures in enumerate(each, 1)]
            if len(each) > 1
            else []
        )
        rows += [("true", "the true object", told["truth"])] if "truth" in told else []
    if not rows:
        return {}
    means = [("mean", "mean", left.judged["mean"])] if len(left.judged["prompts"]) > 1 else []
    turns = [
        (up, (first + 360 * i / count) % 360)
        for up, count, first in left.judged["cameras"]["rings"]
        for i in range(count)
    ]
    seen = [
        (
            told["prompt"],
            [
                (*turn, side, said)
                for turn, side, *said in zip(
                    turns, left.judged["sides"], *told["seen"], strict=True
                )
            ],
        )
        for told in left.judged["prompts"]
        if "seen" in told
    ]
    return {
        "columns": score_columns([figures for _, _, figures in rows]),
        "rows": rows + means,
        "seen": seen,
    }


def _strips(left: RunData, shown: Sequence[int]) -> list[tuple[str, str, list[PageImage]]]:
    """Title, explanation and pictures of every kind of picture of the ``shown`` steps."""
    whole = own = " One row a prompt, one column a particle." if len(left.prompts) > 1 else ""
    if left.sided:
        whole, own = (
            f" One row a particle: {', '.join(VIEW_NAMES)}.",
            " One picture for every view of the step.",
        )
    kinds = (
        ("Progress", "The representation itself." + whole, ""),
        (
            "Normals",
            "Which way the surface faces: red along x, green along y, blue along z." + whole,
            "-normal",
        ),
        ("Depth", "Along the line of sight; yellow is near." + whole, "-depth"),
        ("Opacity", "White where nothing is seen through." + whole, "-alpha"),
        (
            "One step of the prior",
            "Its guess of the clean picture at the x_t of the step, guided." + own,
            "-x0",
        ),
        (
            "One step of the critic",
            "The same guess of the critic, which follows the particles." + own,
            "-critic",
        ),
    )
    return [(title, says, left.strip(shown, kind)) for title, says, kind in kinds]


def write_edit_report(folders: Sequence[Path], out: Path) -> Path:
    """One page of the edits in several run folders, with a link to the page of each run."""
    left = [read_run_data(Path(folder)) for folder in folders]
    runs = [
        (one, one.edits(), os.path.relpath(one.path / "report.html", out.parent)) for one in left
    ]
    return _save(
        out, "edits.html.j2", {"runs": runs, "count": sum(len(rows) for _, rows, _ in runs)}
    )


def _profile_rows(left: RunData) -> list[tuple[str, float, float, str, str]]:
    """Part of a run, its seconds, its share of the whole, its operations and most bytes in words; the rest is called other."""
    seconds = dict(sorted(left.seconds().items(), key=lambda item: -item[1]))
    rest = left.elapsed() - sum(seconds.values())
    if rest > 0.005 * left.elapsed():
        seconds["other"] = rest
    total = max(sum(seconds.values()), 1e-9)
    flops, held = left.cost.get("flops", {}), left.cost.get("bytes", {})
    told = lambda counts, name, unit: (
        format_si(counts[name], unit) if counts.get(name) else "\N{EN DASH}"
    )  # noqa: E731
    return [
        (
            PROFILE_LABELS.get(name, name),
            value,
            value / total,
            told(flops, name, "FLOP"),
            told(held, name, "B"),
        )
        for name, value in seconds.items()
        if value >= 0.0005
    ]


def _comparison_content(left: list[RunData]) -> dict[str, Any]:
    prompts = list(dict.fromkeys(prompt for one in left for prompt in one.prompts))
    cells = [{caption: images for caption, images in one.finals()} for one in left]
    means = [one.scores.get("mean", {}) for one in left]
    colours = plots.line_colors(len(left))
    overlays = plots.comparison_plots(
        [(one.metrics, colour) for one, colour in zip(left, colours, strict=True)]
    )
    return {
        "runs": list(zip(left, colours, cells, means, strict=True)),
        "prompts": prompts,
        "columns": score_columns(means),
        "overlays": [(title, Markup(svg)) for title, svg in overlays],
        "differing": differing_options(left),
        "captioned": ("prompts", "model", "method.name", "method.guidance", "steps", "particles"),
    }
