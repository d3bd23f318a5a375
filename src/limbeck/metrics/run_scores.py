"""All metrics of the final images of a run, by prompt and as a mean over prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.export.png import check_image_values
from limbeck.metrics.feature_diversity import feature_diversity
from limbeck.metrics.image_statistics import clipped, diversity, saturation, total_variation
from limbeck.metrics.prompt_agreement import agreement
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import ATTRIBUTES

#: names of all of them
RUN_SCORES = (
    *ATTRIBUTES,
    "all",
    "rejected",
    "saturation",
    "clipped",
    "total_variation",
    "diversity",
    "feature_diversity",
)


@torch.no_grad()
def score_images(
    images: Float[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    evaluator: Any = None,
    num_views: int = 1,
) -> dict[str, Any]:
    """Compute the metrics of images that are sorted by prompt, equally many for each.

    Args:
        images: images in [0, 1]; the views of a particle are next to each other.
        prompts: the prompts.
        evaluator: the world's evaluator. It judges images of 64 x 64 pixels whose prompt names an
            object of the world. None: no agreement.
        num_views: images per particle. Diversity compares the same view of different particles
            and is a mean over views.

    Returns:
        ``{"prompts": [{"prompt": ..., metrics}], "mean": {metrics}}``; a mean is over the prompts
        that
        have the metric.

    Raises:
        ValueError: if the number of images does not fit, or one holds NaN or infinite values.
    """
    if len(images) % (len(prompts) * num_views):
        views = f" and {num_views} views" if num_views > 1 else ""
        raise ValueError(
            f"{len(images)} images cannot be divided into {len(prompts)} prompts{views}"
        )
    images = images.detach().float().cpu()
    check_image_values(images)
    rows = []
    for prompt, own in zip(prompts, images.chunk(len(prompts)), strict=True):
        row: dict[str, Any] = {"prompt": prompt}
        if evaluator is not None and own.shape[-2:] == (64, 64) and judgeable_attributes(prompt):
            row |= agreement(evaluator.judge(own), [prompt] * len(own))
            row["feature_diversity"] = _mean_over_views(
                own, num_views, lambda view: feature_diversity(view, evaluator.features)
            )
        row["saturation"] = saturation(own)
        row["clipped"] = clipped(own)
        row["total_variation"] = total_variation(own)
        row["diversity"] = _mean_over_views(own, num_views, diversity)
        rows.append({name: value for name, value in row.items() if value is not None})
    names = list(dict.fromkeys(name for row in rows for name in row if name != "prompt"))
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {"prompts": rows, "mean": {name: sum(v) / len(v) for name, v in values.items()}}


def _mean_over_views(
    images: Float[Tensor, "n 3 h w"], num_views: int, metric: Callable[[Tensor], float | None]
) -> float | None:
    """Mean of a metric over views, each with the images of all particles; None without a value."""
    by_view = [metric(images[view::num_views]) for view in range(num_views)]
    values = [value for value in by_view if value is not None]
    return sum(values) / len(values) if values else None


def score_run(
    images: Float[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    images_per_prompt: int,
    num_views: int = 1,
) -> dict[str, Any]:
    """Compute ``score_images`` with the world's evaluator where it applies.

    If the evaluator's file is missing, ``note`` says so instead of the agreement, so that a
    finished run is not lost.

    Args:
        images: images in [0, 1], sorted by prompt.
        prompts: the prompts.
        images_per_prompt: number of images of each prompt.
        num_views: images per particle.

    Raises:
        ValueError: if the number of images does not fit.
    """
    if len(images) != images_per_prompt * len(prompts):
        raise ValueError(
            f"{len(images)} images are not {images_per_prompt} for each of {len(prompts)} prompts"
        )
    if images.shape[-2:] != (64, 64) or not any(judgeable_attributes(p) for p in prompts):
        return score_images(images, prompts, num_views=num_views)
    from limbeck.world.pretrained import load_evaluator

    try:
        return score_images(images, prompts, load_evaluator(), num_views)
    except FileNotFoundError as error:
        scores = score_images(images, prompts, num_views=num_views)
        return scores | {"note": f"without agreement: {error}"}
