"""Numbers as text: which scores a table shows, their labels and digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.runs.report.image_metrics import IMAGE_METRICS, image_metric, in_table_order

if TYPE_CHECKING:
    from limbeck.metrics.estimate import Estimate  # imports torch, without which texts do


class ScoreColumn(NamedTuple):
    """How a score is shown.

    Attributes:
        label: table heading.
        help: definition, shown as a tooltip.
        percent: whether the score is a share, shown in percent.
    """

    label: str
    help: str
    percent: bool


SCORES = {
    "object": ScoreColumn(
        "object", "Share of images in which the evaluator sees the object of the prompt.", True
    ),
    "color": ScoreColumn(
        "color", "Share of images in which the evaluator sees the color of the prompt.", True
    ),
    "pattern": ScoreColumn(
        "pattern", "Share of images in which the evaluator sees the pattern of the prompt.", True
    ),
    "background": ScoreColumn(
        "background",
        "Share of images in which the evaluator sees the background of the prompt.",
        True,
    ),
    "view": ScoreColumn(
        "view", "Share of images in which the evaluator sees the view of the prompt.", True
    ),
    "true_color": ScoreColumn(
        "true color",
        "Share of the object's pixels within Delta E 15 of the nearest color of true renders.",
        True,
    ),
    "color_overlap": ScoreColumn(
        "color overlap", "Overlap of the histograms of colors of object and true renders.", True
    ),
    "view_accuracy": ScoreColumn(
        "view accuracy",
        "Share of images in which the evaluator sees the view of the camera.",
        True,
    ),
    "r_precision": ScoreColumn(
        "R-Precision",
        "Share of images at 30 degrees whose own prompt scores highest among its distractors.",
        True,
    ),
    "r_precision_shape": ScoreColumn(
        "R-Precision (shape)",
        "R-Precision of textureless renders, by the object of the prompt alone.",
        True,
    ),
    "clip_score": ScoreColumn(
        "CLIP score", "Cosine of the CLIP embeddings of image and prompt.", False
    ),
    "clip": ScoreColumn("CLIP R-Precision", "R-Precision by CLIP.", True),
    "clip_shape": ScoreColumn(
        "CLIP R-Precision (shape)", "R-Precision of textureless renders by CLIP.", True
    ),
    "pick_score": ScoreColumn("PickScore", "Cosine times the logit scale of PickScore.", False),
    "hps": ScoreColumn("HPSv2", "Cosine of Human Preference Score v2.", False),
    "image_reward": ScoreColumn("ImageReward", "Score of ImageReward, about -2 to 2.", False),
    "janus": ScoreColumn(
        "Janus", "Share of images from behind in which the evaluator sees a front.", True
    ),
    "janus_side": ScoreColumn(
        "Janus (side)", "Share of images from the side in which the evaluator sees a front.", True
    ),
    "mirrored": ScoreColumn(
        "mirrored", "Share of images from the side in which the object faces the wrong way.", True
    ),
    "all": ScoreColumn(
        "all attributes", "Share of images in which every attribute of the prompt is right.", True
    ),
    "rejected": ScoreColumn(
        "rejected", "Share of images in which the evaluator sees none of its objects.", True
    ),
    "saturation": ScoreColumn("saturation", "Mean HSV saturation, 0 to 1.", False),
    "clipped": ScoreColumn("clipped", "Share of channel values at 0 or 255.", True),
    "total_variation": ScoreColumn(
        "total variation", "Mean absolute difference of neighboring pixels in [0, 1].", False
    ),
    "diversity": ScoreColumn(
        "diversity",
        "Mean root mean square difference of two particles of a prompt, pixels in [0, 1].",
        False,
    ),
    "feature_diversity": ScoreColumn(
        "feature diversity",
        "Mean cosine distance of two particles of a prompt in the evaluator's features.",
        False,
    ),
}

#: label of the parts of a run in profile.json; other parts keep their names
PROFILE_LABELS = {
    "method": "direction (prior, critic)",
    "critic": "critic update",
    "images": "images (decode)",
    "results": "results (final images, turntables)",
}


_COUNTS = ("clip_texts",)  #: numbers beside scores that are no scores


def score_column(name: str) -> ScoreColumn:
    """How a score is shown; one of images alone as in eval.json, one's own under its name."""
    if name in SCORES:
        return SCORES[name]
    metric = image_metric(name)
    is_share = metric.unit == " %"
    label = metric.label.removesuffix(f" x {metric.scale:.0f}")
    return ScoreColumn(label, "See the metrics of images in docs/eval.md.", is_share)


def score_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores that occur in any row, in the order of tables, those of one's own first."""
    names = dict.fromkeys(
        name for row in rows for name, value in row.items() if name in SCORES or _is_score(value)
    )
    others = in_table_order(name for name in names if name not in (*SCORES, *_COUNTS))
    own = [name for name in others if name not in IMAGE_METRICS]
    return [*own, *(name for name in SCORES if name in names), *others[len(own) :]]


def _is_score(value: Any) -> bool:
    """Whether a value of a row is a number or an estimate, not a text, verdicts or particles."""
    return value is not None and not isinstance(value, bool | str | Mapping | Sequence)


def score_text(value: float | None, name: str) -> str:
    """Format a score: shares in percent, others with three decimals, a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    return f"{100 * value:.0f} %" if score_column(name).percent else f"{value:.3f}"


def interval_text(interval: tuple[float, float], name: str) -> str:
    """Format the interval of a score, with its unit once."""
    low, high = (score_text(end, name) for end in interval)
    return f"{low.removesuffix(' %')} to {high}"


class DifferenceCell(NamedTuple):
    """A difference of scores, as it is shown.

    Attributes:
        difference: the difference with its sign, in percentage points for a share.
        interval: its interval in brackets; empty if there is none.
        is_clear: whether the interval excludes zero.
    """

    difference: str
    interval: str
    is_clear: bool


def difference_cell(difference: Estimate, name: str) -> DifferenceCell:
    """Format a difference of scores.

    Args:
        difference: the difference, with its interval if there is one.
        name: name of the score.
    """
    text = _signed_text(difference.value, name)
    if difference.interval is None:
        return DifferenceCell(text, "", False)
    low, high = difference.interval
    ends = f"[{_signed_text(low, name)}, {_signed_text(high, name)}]"
    return DifferenceCell(text, ends, difference.excludes_zero)


def _signed_text(value: float, name: str) -> str:
    text = f"{100 * value:+.0f}" if score_column(name).percent else f"{value:+.3f}"
    sign = "" if not float(text) else "\N{MINUS SIGN}" if value < 0 else "+"
    return sign + text[1:]


def seconds_text(value: float) -> str:
    """Format a duration: ``0.42 s``, ``38 s``, ``12 min 5 s``, ``3 h 20 min``."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.0f} s"
    seconds = round(value)
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
