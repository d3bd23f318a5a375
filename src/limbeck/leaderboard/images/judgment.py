"""Metrics of the images of a row, each with an interval whose unit is the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.high_frequency import high_frequency
from limbeck.metrics.image_statistics import diversity, saturation
from limbeck.metrics.intervals import (
    POSITIVE,
    SHARE,
    jackknife_interval,
)
from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.r_precision import caption_scores, ranks_first
from limbeck.metrics.set_metrics import SET_METRICS, SetMetric
from limbeck.metrics.vendi import vendi_score
from limbeck.world.evaluator import Evaluator
from limbeck.world.prompt_parser import judgeable_attributes

_DISTANCES = ("frechet", "kid", "precision", "recall", "density", "coverage")


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
    images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], evaluator: Evaluator
) -> dict[str, Estimate]:
    """Metrics that are means over images.

    Args:
        images: images, sorted by prompt, equally many for each.
        prompts: the prompts.
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
            out[name] = mean_estimate(known, SHARE)
    out["fidelity"] = mean_estimate([1 - share["rejected"] for share in shares], SHARE)
    out["saturation"] = mean_estimate([saturation(own) for own in per_prompt], POSITIVE)
    out["high_frequency"] = mean_estimate([high_frequency(own) for own in per_prompt], POSITIVE)
    return out


@torch.no_grad()
def judge_retrieval(
    images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], evaluator: Evaluator
) -> dict[str, Estimate]:
    """R-Precision: whether an image fits its caption better than the others, by the evaluator.

    Args:
        images: images, sorted by prompt, equally many for each.
        prompts: different captions, at least two; else there is nothing to tell apart.
        evaluator: the world's evaluator.
    """
    if len(prompts) < 2:
        return {}
    scores = caption_scores(evaluator(images.float() / 255), prompts)
    own = torch.arange(len(prompts)).repeat_interleave(len(images) // len(prompts))
    first = ranks_first(scores, own).double().chunk(len(prompts))
    return {"r_precision": mean_estimate([part.mean().item() for part in first], SHARE)}


@torch.no_grad()
def judge_distances(
    images: UInt8[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    reference: Float[Tensor, "m 3 h w"],
    evaluator: Evaluator,
) -> dict[str, Estimate]:
    """Distances between the evaluator's features of images and of renders.

    Args:
        images: images, sorted by prompt, equally many for each.
        prompts: the prompts.
        reference: renders that they are compared with, as many as images.
        evaluator: the world's evaluator.
    """
    features = evaluator.features(images.float() / 255)
    true, units = evaluator.features(reference), _units(images, prompts)
    out = {}
    for metric in _set_metrics(features):

        def statistic(rows: Tensor, metric: SetMetric = metric) -> float:
            return metric.function(features[rows], true)

        value = statistic(torch.arange(len(features)))
        out[metric.name] = Estimate(value, jackknife_interval(statistic, units, metric.bounds))
    return out


@torch.no_grad()
def distance_differences(
    images: UInt8[Tensor, "n 3 h w"],
    others: UInt8[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    reference: Float[Tensor, "m 3 h w"],
    evaluator: Evaluator,
) -> dict[str, Estimate]:
    """Differences of ``judge_distances``, images minus others, paired by prompt.

    Args:
        images: images, sorted by prompt, equally many for each.
        others: other images of the same prompts.
        prompts: the prompts.
        reference: renders that both are compared with.
        evaluator: the world's evaluator.
    """
    a, b = (evaluator.features(found.float() / 255) for found in (images, others))
    true, units = evaluator.features(reference), _units(images, prompts)
    out = {}
    for metric in _set_metrics(a):

        def statistic(rows: Tensor, metric: SetMetric = metric) -> float:
            return metric.function(a[rows], true) - metric.function(b[rows], true)

        interval = jackknife_interval(statistic, units, metric.bounds, is_difference=True)
        out[metric.name] = Estimate(statistic(torch.arange(len(a))), interval)
    return out


def mean_differences(
    values: Mapping[str, Estimate], others: Mapping[str, Estimate]
) -> dict[str, Estimate]:
    """Differences of the metrics that are means over prompts, paired by prompt."""
    out = {}
    for name, value in values.items():
        if value.by_unit and name in others:
            pairs = zip(value.by_unit, others[name].by_unit, strict=True)
            differences = [a - b for a, b in pairs]
            out[name] = mean_estimate(differences, metric_bounds(name), is_difference=True)
    return out


def judge_diversity(
    images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], evaluator: Evaluator
) -> dict[str, Estimate]:
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
    return {
        "diversity": mean_estimate(pixels, POSITIVE),
        "vendi": mean_estimate(vendi, (1.0, count)),
    }


def _units(images: Tensor, prompts: Sequence[str]) -> list[str]:
    return [prompt for prompt in prompts for _ in range(len(images) // len(prompts))]


def _set_metrics(features: Float[Tensor, "n d"]) -> list[SetMetric]:
    """The distances that so many images can have."""
    # the Frechet distance of fewer has directions without any variance
    least = {"frechet": features.shape[1] + 1}
    return [
        metric
        for metric in SET_METRICS
        if metric.name in _DISTANCES and len(features) >= least.get(metric.name, metric.min_images)
    ]
