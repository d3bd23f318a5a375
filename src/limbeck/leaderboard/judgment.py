"""Metrics of the images of a row, each with an interval whose unit is the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.metrics.frechet import frechet_distance
from limbeck.metrics.high_frequency import high_frequency
from limbeck.metrics.image_statistics import diversity, saturation
from limbeck.metrics.intervals import UNBOUNDED, Interval, jackknife_interval, mean_interval
from limbeck.metrics.kid import kid
from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.vendi import vendi_score
from limbeck.world.evaluator import Evaluator
from limbeck.world.prompt_parser import judgeable_attributes

SHARE: Interval = (0.0, 1.0)


@dataclass(frozen=True)
class Value:
    """A metric.

    Attributes:
        value: its value.
        interval: 95 % interval; None if there are fewer than two prompts.
        by_prompt: its mean over the seeds of each prompt, for paired differences; empty for
            metrics of the whole set.
    """

    value: float
    interval: Interval | None
    by_prompt: tuple[float, ...] = field(default=(), repr=False)


def mean_value(by_prompt: Sequence[float], bounds: Interval = UNBOUNDED) -> Value:
    """The mean over prompts, with its interval."""
    mean = sum(by_prompt) / len(by_prompt)
    return Value(mean, mean_interval(by_prompt, bounds), tuple(by_prompt))


def tuning_objective(
    images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], evaluator: Evaluator
) -> float:
    """Mean over images and attributes of the probability of the prompt's attribute.

    A share of right images would take few values on few prompts.

    Args:
        images: images, sorted by prompt.
        prompts: the prompts, of equally many images each.
        evaluator: the world's evaluator.
    """
    repeats = len(images) // len(prompts)
    logits = evaluator(images.float() / 255)
    values = []
    for i in range(len(images)):
        for name, label in judgeable_attributes(prompts[i // repeats]).items():
            values.append(logits[name][i].softmax(-1)[label].item())
    return sum(values) / len(values)


def judge_images(
    images: UInt8[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    reference: Float[Tensor, "m 3 h w"],
    evaluator: Evaluator,
) -> dict[str, Value]:
    """All metrics of some images.

    Args:
        images: images, sorted by prompt, equally many for each.
        prompts: the prompts.
        reference: renders that they are compared with, as many as images.
        evaluator: the world's evaluator.
    """
    floats = images.float() / 255
    per_prompt = floats.chunk(len(prompts))
    verdicts = evaluator.judge(floats).chunk(len(prompts))
    shares = [
        agreement(own, [prompt] * len(own)) for own, prompt in zip(verdicts, prompts, strict=True)
    ]
    out = {}
    for name in ("object", "color", "pattern", "background", "view", "all"):
        known = [share[name] for share in shares if name in share]
        if known:
            out[name] = mean_value(known, SHARE)
    out["fidelity"] = mean_value([1 - share["rejected"] for share in shares], SHARE)
    units = [prompt for prompt, own in zip(prompts, per_prompt, strict=True) for _ in own]
    features, true = evaluator.features(floats), evaluator.features(reference)
    distances: dict[str, Callable[[Tensor, Tensor], float]] = {"kid": kid}
    if len(features) > features.shape[1]:  # fewer leave directions without any variance
        distances = {"frechet": frechet_distance} | distances
    for name, distance in distances.items():

        def statistic(rows: Tensor, distance: Callable = distance) -> float:
            return distance(features[rows], true)

        interval = jackknife_interval(statistic, units)
        out[name] = Value(statistic(torch.arange(len(features))), interval)
    out["saturation"] = mean_value([saturation(own) for own in per_prompt], SHARE)
    out["high_frequency"] = mean_value([high_frequency(own) for own in per_prompt], SHARE)
    return out


def judge_diversity(
    images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], evaluator: Evaluator
) -> dict[str, Value]:
    """Diversity of the images of each prompt: of pixels, and the Vendi score of features.

    Args:
        images: images, sorted by prompt, equally many for each, at least two.
        prompts: the prompts.
        evaluator: the world's evaluator.
    """
    per_prompt = (images.float() / 255).chunk(len(prompts))
    pixels = [value for own in per_prompt if (value := diversity(own)) is not None]
    count = len(images) / len(prompts)
    vendi = [vendi_score(evaluator.features(own)) for own in per_prompt]
    return {"diversity": mean_value(pixels, SHARE), "vendi": mean_value(vendi, (1.0, count))}
