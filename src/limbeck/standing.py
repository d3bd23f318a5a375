"""Figures of judged runs as people read them: a line for one, a table for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from limbeck.evaluation import frechet, mean

#: figure: heading, whether it is a share
HEADINGS = {
    "object": ("object", True), "colour": ("colour", True), "pattern": ("pattern", True), "background": ("place", True),
    "view": ("view", True), "r_precision": ("R", True), "r_precision_shape": ("R shape", True), "clip": ("CLIP R", True),
    "clip_shape": ("CLIP R shape", True), "janus": ("Janus", True), "janus_side": ("Janus side", True),
    "rejected": ("rejected", True), "diversity": ("diversity", False), "feature_diversity": ("feature div.", False),
}  # fmt: skip


def said(figures: Mapping[str, float], name: str) -> str:
    """A figure with its digits, a dash where there is none."""
    if name not in figures:
        return "-"
    return f"{100 * figures[name]:.0f} %" if HEADINGS[name][1] else f"{figures[name]:.3f}"


def line(figures: Mapping[str, float]) -> str:
    """All figures of one run."""
    return ", ".join(f"{HEADINGS[name][0]} {said(figures, name)}" for name in HEADINGS if name in figures)


def table(done: Sequence[tuple[str, dict[str, Any], Sequence[tuple[Tensor, Tensor]]]]) -> str:
    """Markdown: for every family of runs a row per prompt, which is the mean over seeds, a row of their mean, and one of what the
    true objects would get. done: the family, what eval.json says and the features of each run."""
    out = []
    for name in dict.fromkeys(family for family, _, _ in done):
        own = [(told, features) for family, told, features in done if family == name]
        rows = [row for told, _ in own for row in told["prompts"]]
        prompts = {prompt: [row for row in rows if row["prompt"] == prompt] for prompt in dict.fromkeys(r["prompt"] for r in rows)}
        means = {prompt: mean(seeds) for prompt, seeds in prompts.items()}
        ends = {"mean": mean(list(means.values())), "true objects": mean([row["truth"] for row in rows if "truth" in row])}
        columns = [column for column in HEADINGS if any(column in row for row in means.values())]
        body = [[prompt, str(len(prompts[prompt])), *(said(row, c) for c in columns)] for prompt, row in means.items()]
        body += [[end, "", *(said(row, c) for c in columns)] for end, row in ends.items() if row]
        out += ["", f"{name}:", "", *_aligned([["prompt", "runs", *(HEADINGS[c][0] for c in columns)], *body])]
        far = frechet([pair for _, features in own for pair in features])
        out += ["", f"Frechet distance to the true objects: {far['frechet']:.1f}"] if far else []
    return "\n".join(out)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, the first column to the left, the others to the right."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))] for row in rows]
    rule = ["-" * wide[0], *("-" * (w - 1) + ":" for w in wide[1:])]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
