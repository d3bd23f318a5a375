"""All figures of the final pictures of a run, by prompt and as a mean over prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.feature_diversity import feature_diversity
from limbeck.metrics.image_statistics import clipped, diversity, saturation, variation
from limbeck.metrics.prompt_agreement import agreement
from limbeck.world.prompt_parser import judgeable_attributes


@torch.no_grad()
def scores(
    images: Float[Tensor, "n 3 h w"], prompts: Sequence[str], evaluator: Any = None, sides: int = 1
) -> dict[str, Any]:
    """``{"prompts": [{"prompt": ..., figures}], "mean": {figures}}`` of pictures sorted by prompt, as many for each.

    sides: pictures of every particle, one after the other; diversity is of the same side of different particles, a mean over them.

    evaluator: a ``limbeck.world.pretrained`` evaluator, or None. It judges 64 x 64 pictures whose prompt names an object of the world and no
    others. A mean is over the prompts that have the figure.
    """
    if len(images) % (len(prompts) * sides):
        of = f"{sides} sides of particles" if sides > 1 else "each"
        raise ValueError(
            f"{len(images)} pictures are not a whole number for {of} of {len(prompts)} prompts"
        )
    images = images.detach().float().cpu()
    rows = []
    for prompt, own in zip(prompts, images.chunk(len(prompts)), strict=True):
        row: dict[str, Any] = {"prompt": prompt}
        if evaluator is not None and own.shape[-2:] == (64, 64) and judgeable_attributes(prompt):
            row |= agreement(evaluator.judge(own), [prompt] * len(own))
            row["feature_diversity"] = _by_side(
                own, sides, lambda side: feature_diversity(side, evaluator.features)
            )
        row |= {"saturation": saturation(own), "clipped": clipped(own), "variation": variation(own)}
        row["diversity"] = _by_side(own, sides, diversity)
        rows.append({name: value for name, value in row.items() if value is not None})
    names = list(dict.fromkeys(name for row in rows for name in row if name != "prompt"))
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {"prompts": rows, "mean": {name: sum(v) / len(v) for name, v in values.items()}}


def _by_side(
    images: Float[Tensor, "n 3 h w"], sides: int, figure: Callable[[Tensor], float | None]
) -> float | None:
    """Mean of a figure over the sides, of all particles each; None where there is none."""
    values = [value for side in range(sides) if (value := figure(images[side::sides])) is not None]
    return sum(values) / len(values) if values else None


def score_pictures(
    images: Float[Tensor, "n 3 h w"], prompts: Sequence[str], each: int, sides: int = 1
) -> dict[str, Any]:
    """``scores`` of pictures sorted by prompt, ``each`` of them for every one, by the world's evaluator where it can judge them.

    Where the evaluator's file is missing, ``note`` says so instead of agreement: a finished run is not lost for it.
    """
    if len(images) != each * len(prompts):
        raise ValueError(
            f"{len(images)} pictures are not {each} for each of {len(prompts)} prompts"
        )
    if images.shape[-2:] != (64, 64) or not any(judgeable_attributes(prompt) for prompt in prompts):
        return scores(images, prompts, sides=sides)
    from limbeck.world.pretrained import load_evaluator

    try:
        return scores(images, prompts, load_evaluator(), sides)
    except FileNotFoundError as error:
        return scores(images, prompts, sides=sides) | {"note": f"without agreement: {error}"}
