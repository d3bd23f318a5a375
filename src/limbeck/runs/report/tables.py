"""Numbers in words: which scores a table shows, under which names, with how many digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: score: what it is called, what it says, whether it is a share
SCORES = {
    "object": (
        "object",
        "Share of pictures in which the evaluator sees the object that the prompt names.",
        True,
    ),
    "colour": ("colour", "The same of the colour.", True),
    "pattern": ("pattern", "The same of the pattern.", True),
    "background": ("background", "The same of the background.", True),
    "view": ("view", "The same of the view.", True),
    "r_precision": (
        "R-Precision",
        "Share of pictures at 30 degrees whose own prompt scores highest among its distractors.",
        True,
    ),
    "r_precision_shape": (
        "R shape",
        "The same of the shape alone, in white, by the object's word.",
        True,
    ),
    "clip": ("CLIP R", "R-Precision by CLIP.", True),
    "clip_shape": ("CLIP R shape", "The same of the shape alone.", True),
    "janus": (
        "Janus",
        "Share of the pictures from behind in which the evaluator sees a front.",
        True,
    ),
    "janus_side": ("Janus side", "The same of those from the side.", True),
    "all": ("all said", "Share of pictures in which everything the prompt says is right.", True),
    "rejected": (
        "rejected",
        "Share of pictures in which the evaluator sees none of its objects.",
        True,
    ),
    "saturation": ("saturation", "Mean HSV saturation, 0 to 1.", False),
    "clipped": ("clipped", "Share of channel values at 0 or 255.", True),
    "variation": (
        "variation",
        "Mean absolute difference of neighbouring pixels, of a range of 1.",
        False,
    ),
    "diversity": (
        "diversity",
        "Mean root mean squared difference of two particles of a prompt, of a range of 1.",
        False,
    ),
    "feature_diversity": (
        "feature diversity",
        "Mean cosine distance of two particles in the evaluator's features.",
        False,
    ),
}

#: part of a run, as cost.json names it: what a page calls it
PROFILE_LABELS = {
    "method": "direction (prior, critic)",
    "critic": "critic's step",
    "pictures": "pictures (decode)",
}


def score_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores that any row has, in the order of ``SCORES``."""
    return [name for name in SCORES if any(name in row for row in rows)]


def score_text(value: float | None, name: str) -> str:
    """A score as a table shows it: shares in percent, others with three digits, a dash where there is none."""
    if value is None:
        return "\N{EN DASH}"
    return f"{100 * value:.0f} %" if SCORES[name][2] else f"{value:.3f}"


def seconds_text(value: float) -> str:
    """A duration for people: ``0.42 s``, ``38 s``, ``12 min 5 s``, ``3 h 20 min``."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.0f} s"
    whole = round(value)
    return (
        f"{whole // 60} min {whole % 60} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60} min"
    )
