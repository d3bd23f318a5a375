"""How the metrics of images in eval.json are shown: label, scale and digits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ImageMetric:
    """How a metric is shown.

    Attributes:
        label: table heading.
        scale: factor of the shown value.
        digits: decimals.
        unit: text after the value.
    """

    label: str
    scale: float = 1.0
    digits: int = 3
    unit: str = ""

    def value_text(self, value: float | None) -> str:
        """A value with its unit; a dash for None."""
        return "-" if value is None else f"{self.scale * value:z.{self.digits}f}{self.unit}"

    def interval_text(self, low: float | None, high: float | None) -> str:
        """Two ends of an interval; a dash if there is none."""
        if low is None or high is None:
            return "-"
        return " to ".join(f"{self.scale * end:z.{self.digits}f}" for end in (low, high))


def _share(label: str) -> ImageMetric:
    return ImageMetric(label, 100.0, 1, " %")


#: metrics in the order of tables
IMAGE_METRICS = {
    "clip_score": ImageMetric("CLIP score x 100", 100.0, 2),
    "clip_r_precision": _share("CLIP R-Precision"),
    "pick_score": ImageMetric("PickScore", digits=2),
    "hps": ImageMetric("HPSv2 x 100", 100.0, 2),
    "image_reward": ImageMetric("ImageReward"),
    "object": _share("object"),
    "color": _share("color"),
    "pattern": _share("pattern"),
    "background": _share("background"),
    "view": _share("view"),
    "all": _share("all attributes"),
    "r_precision": _share("R-Precision"),
    "rejected": _share("rejected"),
    "clip_edited": ImageMetric("CLIP score of the edited part x 100", 100.0, 2),
    "change": ImageMetric("RMS change"),
    "mse_outside": ImageMetric("MSE outside the mask x 1000", 1000.0, 2),
    "psnr_outside": ImageMetric("PSNR outside the mask", digits=2, unit=" dB"),
    "ssim_outside": ImageMetric("SSIM outside the mask"),
    "lpips_outside": ImageMetric("LPIPS outside the mask"),
    "structure_distance": ImageMetric("structure distance x 1000", 1000.0, 2),
    "structure_distance_published": ImageMetric(
        "structure distance x 1000, as PIE-Bench's code", 1000.0, 2
    ),
    "vendi": ImageMetric("Vendi score", digits=2),
    "vendi_4": ImageMetric("Vendi score, 4 per prompt", digits=2),
    "vendi_8": ImageMetric("Vendi score, 8 per prompt", digits=2),
    "feature_diversity": ImageMetric("feature diversity"),
    "diversity": ImageMetric("diversity"),
    "kid": ImageMetric("KID x 1000", 1000.0, 2),
    "cmmd": ImageMetric("CMMD x 1000", 1000.0, 3),
    "frechet": ImageMetric("Frechet distance", digits=2),
    "precision": _share("precision"),
    "recall": _share("recall"),
    "density": ImageMetric("density"),
    "coverage": _share("coverage"),
    "log_p": ImageMetric("mean log p", digits=1),
    "energy_distance": ImageMetric("energy distance"),
    "sliced_wasserstein": ImageMetric("sliced Wasserstein"),
    "mode_error": _share("mode error"),
    "saturation": ImageMetric("saturation"),
    "clipped": _share("clipped"),
    "total_variation": ImageMetric("total variation"),
}


def image_metric(name: str) -> ImageMetric:
    """How a metric is shown; a score of the user's own under its name."""
    return IMAGE_METRICS.get(name) or ImageMetric(name.replace("_", " "))


def in_table_order(names: Iterable[str]) -> list[str]:
    """Names of metrics in the order of tables, scores of the user's own first."""
    given = dict.fromkeys(names)
    own = [name for name in given if name not in IMAGE_METRICS]
    return own + [name for name in IMAGE_METRICS if name in given]


def image_metric_rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of label, value, interval, floor, n, and what the interval is over.

    Args:
        metrics: the metrics by name, as eval.json has them.
    """
    rows = []
    for name in in_table_order(metrics):
        own, metric = metrics[name], image_metric(name)
        value, floor = metric.value_text(own["value"]), metric.value_text(own["floor"])
        interval = metric.interval_text(own["low"], own["high"])
        rows.append([metric.label, value, interval, floor, str(own["n"]), own["over"]])
    return rows
