"""Static reports of runs as single HTML files without network access.

Only the page of a sweep has a script, for its filters; without it, everything is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from limbeck.runs.images import VIEW_NAMES
from limbeck.runs.report import svg_plots
from limbeck.runs.report.comparison import comparison_content
from limbeck.runs.report.image_metrics import image_metric_rows
from limbeck.runs.report.page_images import PageImage, embed_image
from limbeck.runs.report.run_data import RunData, read_run_data
from limbeck.runs.report.tables import (
    PROFILE_LABELS,
    SCORES,
    interval_text,
    score_column,
    score_columns,
    score_text,
    seconds_text,
)
from limbeck.system.files import one_line, write_text
from limbeck.system.flops import format_si
from limbeck.system.overwriting import refuse_foreign_file

_TEMPLATES = Path(__file__).parent
_MAX_STEPS, _MAX_SHEETS = 12, 6  #: at most so many recorded steps are shown; of wide sheets


def write_report(folders: Sequence[Path], out: Path | None = None, reload_seconds: int = 0) -> Path:
    """Write the report of one folder, or the comparison of several.

    Args:
        folders: run folders, finished or not, or folders of samples.
        out: file to write; by default report.html in the folder, or comparison.html in the common
            parent of several folders.
        reload_seconds: for a run that goes on: leave out the curves, which take long to draw, and
            let the page reload itself after this time.

    Returns:
        The file written.

    Raises:
        ValueError: if there is no folder, or one is neither a run nor samples.
    """
    if not folders:
        raise ValueError("a report needs at least one run folder")
    runs = [read_run_data(Path(folder)) for folder in folders]
    if len(runs) == 1:
        page = out or runs[0].path / "report.html"
        with _readable(runs):
            text = render_page("run.html.j2", _run_content(runs[0], page, reload_seconds))
        return save_page(page, text)
    parent = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    with _readable(runs):
        text = render_page("comparison.html.j2", comparison_content(runs))
    return save_page(out or parent / "comparison.html", text)


@contextmanager
def _readable(runs: Sequence[RunData]) -> Iterator[None]:
    """Turn an error due to what a run folder holds into one line that names the folder.

    Metrics, scores and profiles are plain JSON that anything may have written.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, TemplateError) as error:
        names = ", ".join(str(run.path) for run in runs)
        raise ValueError(
            f"{names} cannot be reported: metrics.jsonl, scores.json, profile.json or run.yaml is "
            f"damaged or of another version ({type(error).__name__}: {one_line(error)})"
        ) from error


def write_recipe_report(
    parent: Path, folders: Sequence[Path], recipe: str, messages: Sequence[str] = ()
) -> Path:
    """Write the page above the stages of a preset: what each took and made, and all together.

    Args:
        parent: folder of the recipe; gets report.html.
        folders: run folders of its stages, in order; those that have not started are left out.
        recipe: name of the preset.
        messages: which stage is the best, and what later ones have changed.

    Raises:
        ValueError: if no stage has started.
    """
    started = [folder for folder in folders if (folder / "run.yaml").is_file()]
    if not started:
        raise ValueError(f"{parent} has no stage that has started")
    page, runs = parent / "report.html", [read_run_data(folder) for folder in started]
    with _readable(runs):
        means = [run.scores.get("mean", {}) for run in runs]
        stages = [
            {
                "run": run,
                "link": f"{run.path.name}/report.html",
                "scores": mean,
                "finals": run.finals(),
                "turntables": run.turntables(page),
            }
            for run, mean in zip(runs, means, strict=True)
        ]
        content = {
            "recipe": recipe,
            "stages": stages,
            "total": len(folders),
            "seconds": sum(run.elapsed() for run in runs),
            "evaluations": sum(run.evaluations() for run in runs),
            "columns": score_columns(means),
            "messages": messages,
        }
        text = render_page("recipe.html.j2", content)
    return save_page(page, text)


def write_edit_report(folders: Sequence[Path], out: Path) -> Path:
    """Write one page of the edits in several run folders, with links to their reports."""
    runs = []
    for folder in folders:
        run = read_run_data(Path(folder))
        link = os.path.relpath(run.path / "report.html", out.parent)
        runs.append((run, run.edits(), link))
    count = sum(len(edits) for _, edits, _ in runs)
    return save_page(out, render_page("edits.html.j2", {"runs": runs, "count": count}))


def write_page(template: str, content: dict[str, Any], out: Path) -> Path:
    """Write a page from a template of this folder.

    Args:
        template: name of the template.
        content: its variables.
        out: file to write.
    """
    return save_page(out, render_page(template, content))


def notebook_html(folders: Sequence[Path], report: Path) -> str:
    """HTML fragment of one or more runs, for the output of a notebook cell.

    Args:
        folders: run folders, or folders of samples.
        report: path of their report.
    """
    runs = []
    for folder in folders:
        run = read_run_data(folder)
        path = folder / "final.png"
        edits = run.edits()
        image = embed_image(path, 1200, True) if path.exists() and not edits else None
        runs.append((run, image, edits, run.turntable_sources()))
    return render_page("notebook.html.j2", {"runs": runs, "report": report.resolve()})


def save_page(out: Path, text: str) -> Path:
    """Write a page atomically, over no file that is not of Limbeck."""
    refuse_foreign_file(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return out


def render_page(template: str, content: dict[str, Any], *folders: Path) -> str:
    """Fill a template of pages, which may extend ``base.html.j2``.

    Args:
        template: file name of the template.
        content: its variables.
        folders: where it and what it includes lie, if not beside this file.
    """
    # prompts may hold any text: everything but our own style and plots is escaped
    environment = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": score_text, "seconds": seconds_text}
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    environment.globals |= {
        "style": style,
        "scores": SCORES,
        "score_column": score_column,
        "reload_seconds": 0,
    }
    return environment.get_template(template).render(content)


def _shown_steps(run: RunData) -> list[int]:
    """As many recorded steps as are legible, always with the first and the last."""
    steps, most = run.image_steps(), _MAX_SHEETS if run.has_wide_sheets else _MAX_STEPS
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _run_content(run: RunData, page: Path, reload_seconds: int = 0) -> dict[str, Any]:
    steps = _shown_steps(run)
    rows = run.scores.get("prompts", [])
    return {
        "run": run,
        "finals": run.finals(),
        "scatter": run.scatter(),
        "reference": run.reference(),
        "turntables": run.turntables(page),
        "edit_rows": run.edits(),
        "animation": run.animation(),
        "sections": _image_sections(run, steps),
        "gradients": run.images_at(steps, "-gradient"),
        "gradient_scale": run.gradient_scale(),
        "plots": [] if reload_seconds else _metric_plots(run),
        "reload_seconds": reload_seconds,
        "columns": score_columns(rows),
        "rows": rows,
        "evaluation": _evaluation_table(run),
        "image_metrics": image_metric_rows(run.evaluation.get("metrics", {})),
        "profile_rows": _profile_rows(run),
        "total_flops": format_si(sum(run.profile.get("flops", {}).values()), "FLOP"),
    }


def _metric_plots(run: RunData) -> list[tuple[str, Markup]]:
    return [(title, Markup(svg)) for title, svg in svg_plots.metric_plots(run.metrics)]


def _evaluation_table(run: RunData) -> dict[str, Any]:
    """Content of eval.json as a table; empty if there is none.

    Rows are prompts, each followed by its particles if there are several and by the reference
    object, and their mean. Intervals are over prompts, or over the particles of a single one: the
    images of one object are no independent units. Verdicts are listed by camera.
    """
    prompts = run.evaluation.get("prompts", [])
    rows: list[tuple[str, str, dict[str, Any]]] = []  # kind, label, metrics
    for prompt in prompts:
        rows.append(("", prompt["prompt"], prompt))
        particles = prompt.get("particles", [])
        if len(particles) > 1:
            rows += [("particle", f"particle {i}", row) for i, row in enumerate(particles, 1)]
        if "reference" in prompt:
            rows.append(("reference", "reference object", prompt["reference"]))
    if not rows:
        return {}
    columns = score_columns([metrics for _, _, metrics in rows])
    if len(prompts) > 1:
        rows.append(("mean", "mean", run.evaluation["mean"]))
    angles = [
        (elevation, (first + 360 * i / count) % 360)
        for elevation, count, first in run.evaluation["cameras"]["rings"]
        for i in range(count)
    ]
    verdicts = []
    for prompt in prompts:
        if "verdicts" in prompt:
            table = zip(angles, run.evaluation["views"], *prompt["verdicts"], strict=True)
            cameras = [(*angle, view, seen) for angle, view, *seen in table]
            verdicts.append((prompt["prompt"], cameras))
    intervals = {
        name: interval_text((ends[0], ends[1]), name)
        for name, ends in run.evaluation.get("intervals", {}).items()
        if name in columns
    }
    return {
        "columns": columns,
        "rows": rows,
        "intervals": intervals,
        "interval_over": run.evaluation.get("interval_over", ""),
        "is_one_object": len(prompts) == 1 and len(prompts[0].get("particles", [])) < 2,
        "num_cameras": len(angles),
        "verdicts": verdicts,
    }


class ImageSection(NamedTuple):
    """A section of a report with recorded images of one kind."""

    title: str
    description: str
    images: list[PageImage]


def _image_sections(run: RunData, steps: Sequence[int]) -> list[ImageSection]:
    """Recorded images of the given steps by kind; the first one says how sheets are arranged."""
    sheet = step_sheet = ""
    if run.has_views:
        rows = "One row per particle" if run.num_particles > 1 else "From left to right"
        sheet = f" {rows}: {', '.join(VIEW_NAMES)}."
        step_sheet = " One image per row of the step."
    elif len(run.prompts) > 1:
        sheet = step_sheet = " One row per prompt, one column per particle."
    if run.representation == "generator":
        step_sheet = " New samples of the step, in the order of its rows."
    prior = "Denoised prediction x0 from the x_t of the step, with guidance."
    critic = "Denoised prediction x0 of the critic, which follows the particles."
    kinds = [
        ("Progress", "", "The particles." + sheet),
        ("Normals", "-normal", "Red where the surface faces x, green y, blue z."),
        ("Depth", "-depth", "Distance along the ray; yellow is near."),
        ("Opacity", "-alpha", "White is opaque."),
        ("Prediction of the prior", "-x0", prior + step_sheet),
        ("Prediction of the critic", "-critic", critic + step_sheet),
    ]
    return [
        ImageSection(title, description, run.images_at(steps, kind))
        for title, kind, description in kinds
    ]


class ProfileRow(NamedTuple):
    """A part of a run in the profile table; FLOPs and bytes are formatted."""

    label: str
    seconds: float
    share: float
    flops: str
    memory: str


def _profile_rows(run: RunData) -> list[ProfileRow]:
    """Parts of the run by descending time; what no part accounts for is called other."""
    seconds = dict(sorted(run.seconds().items(), key=lambda item: -item[1]))
    other = run.elapsed() - sum(seconds.values())
    if other > 0.005 * run.elapsed():
        seconds["other"] = other
    total = max(sum(seconds.values()), 1e-9)
    return [
        ProfileRow(
            PROFILE_LABELS.get(part, part),
            value,
            value / total,
            _formatted(run.profile.get("flops", {}).get(part), "FLOP"),
            _formatted(run.profile.get("bytes", {}).get(part), "B"),
        )
        for part, value in seconds.items()
        if value >= 0.0005
    ]


def _formatted(count: int | None, unit: str) -> str:
    return format_si(count, unit) if count else "\N{EN DASH}"
