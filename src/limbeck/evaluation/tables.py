"""Figures of judged runs as people read them: a line for one, a table for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.evaluation.judge import Outcome, across, frechet, mean

#: figure: heading, whether it is a share
HEADINGS = {
    "object": ("object", True), "colour": ("colour", True), "pattern": ("pattern", True), "background": ("place", True),
    "view": ("view", True), "r_precision": ("R", True), "r_precision_shape": ("R shape", True), "clip": ("CLIP R", True),
    "clip_shape": ("CLIP R shape", True), "janus": ("Janus", True), "janus_side": ("Janus side", True),
    "rejected": ("rejected", True), "diversity": ("diversity", False), "feature_diversity": ("feature div.", False),
    "diversity_seeds": ("across seeds", False), "feature_diversity_seeds": ("feature div. across", False),
}  # fmt: skip

#: what diversity is between, told below a table that has it
BETWEEN = {
    "diversity": "diversity: between particles of one run",
    "diversity_seeds": "across seeds: between particles of runs of different seeds",
}


def said(figures: Mapping[str, float], name: str) -> str:
    """A figure with its digits, a dash where there is none."""
    if name not in figures:
        return "-"
    return f"{100 * figures[name]:.0f} %" if HEADINGS[name][1] else f"{figures[name]:.3f}"


def line(figures: Mapping[str, float]) -> str:
    """All figures of one run."""
    return ", ".join(
        f"{HEADINGS[name][0]} {said(figures, name)}" for name in HEADINGS if name in figures
    )


def table(done: Sequence[Outcome]) -> str:
    """Markdown: for every family of runs a row per prompt, which is the mean over seeds, a row of their mean, and one of what the
    true objects would get."""
    out = []
    for name in dict.fromkeys(run.family for run in done):
        own = [run for run in done if run.family == name]
        rows = [row for run in own for row in run.told["prompts"]]
        prompts = {
            prompt: [row for row in rows if row["prompt"] == prompt]
            for prompt in dict.fromkeys(r["prompt"] for r in rows)
        }
        means = {prompt: mean(seeds) | _across(own, prompt) for prompt, seeds in prompts.items()}
        ends = {
            "mean": mean(list(means.values())),
            "true objects": mean([row["truth"] for row in rows if "truth" in row]),
        }
        columns = [column for column in HEADINGS if any(column in row for row in means.values())]
        body = [
            [prompt, str(len(prompts[prompt])), *(said(row, c) for c in columns)]
            for prompt, row in means.items()
        ]
        body += [[end, "", *(said(row, c) for c in columns)] for end, row in ends.items() if row]
        out += [
            "",
            f"{name}:",
            "",
            *_aligned([["prompt", "runs", *(HEADINGS[c][0] for c in columns)], *body]),
        ]
        between = [told for column, told in BETWEEN.items() if column in columns]
        out += ["", "; ".join(between)] if between else []
        far = frechet([pair for run in own for pair in run.features])
        out += ["", f"Frechet distance to the true objects: {far['frechet']:.1f}"] if far else []
    return "\n".join(out)


def _across(runs: Sequence[Outcome], prompt: str) -> dict[str, float]:
    """Of the particles that runs of different seeds made of a prompt."""
    return across([(run.seed, run.shown[prompt]) for run in runs if prompt in run.shown])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, the first column to the left, the others to the right."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [
        [row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))]
        for row in rows
    ]
    rule = ["-" * wide[0], *("-" * (w - 1) + ":" for w in wide[1:])]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
