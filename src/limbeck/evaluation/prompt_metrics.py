"""Metrics of the particles of a prompt, seen through the held-out cameras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.clip_score import clip_scores
from limbeck.metrics.feature_diversity import feature_diversity, feature_diversity_between
from limbeck.metrics.frechet import frechet_distance
from limbeck.metrics.heldout_views import (
    R_PRECISION_VIEWS,
    HeldOutImages,
    held_out_cameras,
    render_textureless,
)
from limbeck.metrics.image_scores.base import ImageScore, score_each
from limbeck.metrics.image_statistics import diversity, diversity_between
from limbeck.metrics.intervals import jackknife_interval
from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.r_precision import candidate_log_probs, compared_texts, r_precision
from limbeck.metrics.true_color import MIN_ALPHA, color_overlap, object_colors, true_color
from limbeck.metrics.view_consistency import (
    has_distinct_sides,
    has_distinct_views,
    mirror_metrics,
    view_labels,
    view_metrics,
)
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    Scenes,
    object_masks,
    render_scenes,
)

_MIN_FRECHET_IMAGES = 256  #: below this a Fréchet distance in 160 features says little
_WORLD_DISTANCE = 3.6  #: mean camera distance of the world's images
_WORLD_FOV = 40.0
_WORLD_SIZE = 64


@dataclass(frozen=True)
class PromptEvaluation:
    """What the world's evaluator says of the particles of a prompt.

    Attributes:
        metrics: mean over the particles.
        particles: metrics of each particle.
        verdicts: verdict of each camera as text, by particle.
        features: features of the images, those of a particle next to each other.
    """

    metrics: dict[str, float]
    particles: list[dict[str, float]]
    verdicts: list[list[str]]
    features: Float[Tensor, "n f"]


@torch.no_grad()
def evaluate_prompt(
    prompt: str,
    particles: Sequence[HeldOutImages],
    cameras: Camera,
    evaluator: Any,
    true_colors: Float[Tensor, "m 3"] | None = None,
) -> PromptEvaluation:
    """Evaluate the particles of a prompt with the world's evaluator.

    Args:
        prompt: a prompt that names one of the world's objects.
        particles: images of each particle, one per camera.
        cameras: the held-out cameras.
        evaluator: the world's evaluator.
        true_colors: colors of true renders, in CIE L*a*b*; None: without ``true_color``.
    """
    metrics, verdicts, features = [], [], []
    named_object = judgeable_attributes(prompt)["object"]
    for images in particles:
        logits = evaluator(images.images)
        features.append(evaluator.features(images.images))
        verdict = torch.stack([logits[name].argmax(1) for name in ATTRIBUTES], 1)
        verdicts.append(_verdict_texts(verdict))
        # the prompt's own view is not that of every camera
        found = agreement(verdict, [prompt] * len(verdict), ignored=("view",))
        if has_distinct_views(named_object):
            found |= view_metrics(verdict, view_labels(cameras))
        if has_distinct_sides(named_object):
            found |= mirror_metrics(verdict, logits["facing"].argmax(1), cameras)
        subset = {name: value[R_PRECISION_VIEWS] for name, value in logits.items()}
        found["r_precision"] = r_precision(candidate_log_probs(subset, prompt), 0)
        if images.textureless is not None:
            shapes = evaluator(images.textureless[R_PRECISION_VIEWS])
            log_probs = candidate_log_probs(shapes, prompt, geometry=True)
            found["r_precision_shape"] = r_precision(log_probs, 0)
        if true_colors is not None and images.alpha is not None:
            colors = object_colors(images.images, images.alpha[:, 0] >= MIN_ALPHA)
            found["true_color"] = true_color(colors, true_colors)
            if "color" in judgeable_attributes(prompt):  # else the true ones are of all colors
                found["color_overlap"] = color_overlap(colors, true_colors)
        metrics.append(found)
    return PromptEvaluation(mean_metrics(metrics), metrics, verdicts, torch.cat(features))


def _verdict_texts(verdicts: Int[Tensor, "n 5"]) -> list[str]:
    """Verdicts as words, such as "duck yellow plain grass side"."""
    names = [
        (*words, "nothing") if name == "object" else words for name, words in ATTRIBUTES.items()
    ]
    return [
        " ".join(words[i] for words, i in zip(names, row, strict=True)) for row in verdicts.tolist()
    ]


def particle_diversity(
    particles: Sequence[HeldOutImages], evaluator: Any = None
) -> dict[str, float]:
    """Compute the diversity of particles of one prompt in the same view, as a mean over cameras.

    Args:
        particles: images of each particle, one per camera.
        evaluator: the world's evaluator, for ``feature_diversity``.

    Returns:
        ``diversity`` and ``feature_diversity``; empty for a single particle.
    """
    if len(particles) < 2:
        return {}
    by_camera = torch.stack([images.images for images in particles], 1)
    values = {"diversity": [diversity(images) for images in by_camera]}
    if evaluator is not None:
        values["feature_diversity"] = [
            feature_diversity(images, evaluator.features) for images in by_camera
        ]
    return {
        name: sum(value for value in by_view if value is not None) / len(by_view)
        for name, by_view in values.items()
    }


@dataclass(frozen=True)
class PromptImages:
    """Images of the particles of a prompt, in 8 bits because those of many runs are kept at once.

    Attributes:
        images: images by particle and camera.
        features: features of the world's evaluator, by particle and camera; None without them.
    """

    images: UInt8[Tensor, "p c 3 h w"]
    features: Float[Tensor, "p c f"] | None = None


def seed_diversity(runs: Sequence[tuple[int, PromptImages]]) -> dict[str, float]:
    """Compute the diversity of particles of one prompt between runs of different seeds.

    Compares the same view of both. A mean over the cameras, over pairs of particles of two seeds
    and over pairs of seeds. Runs of the same seed are not compared: they may be the same run
    twice.

    Args:
        runs: seed and images of each run.

    Returns:
        ``diversity_seeds`` and ``feature_diversity_seeds``; empty for a single seed.
    """
    values: dict[str, list[float]] = {}
    for (seed, a), (other_seed, b) in combinations(runs, 2):
        if seed == other_seed:
            continue
        cameras = range(a.images.shape[1])
        by_camera = [diversity_between(a.images[:, c] / 255, b.images[:, c] / 255) for c in cameras]
        values.setdefault("diversity_seeds", []).append(sum(by_camera) / len(cameras))
        if a.features is not None and b.features is not None:
            by_camera = [
                feature_diversity_between(a.features[:, c], b.features[:, c]) for c in cameras
            ]
            values.setdefault("feature_diversity_seeds", []).append(sum(by_camera) / len(cameras))
    return {name: sum(by_pair) / len(by_pair) for name, by_pair in values.items()}


def clip_texts(prompt: str, others: Sequence[str]) -> list[str]:
    """The prompt and the texts that CLIP compares it with.

    Args:
        prompt: the prompt.
        others: texts that the prompt is compared with.

    Raises:
        ValueError: if there is no other text.
    """
    texts = compared_texts(prompt, others)
    if len(texts) < 2:
        raise ValueError(
            f"CLIP R-Precision of {prompt!r} needs other texts: give a file with one text per "
            "line, with --texts"
        )
    return texts


def clip_metrics(
    prompt: str, particles: Sequence[HeldOutImages], clip: CLIPSimilarity, others: Sequence[str]
) -> dict[str, float]:
    """Compute CLIP score and R-Precision by CLIP, the latter also of the textureless renders.

    Args:
        prompt: the prompt.
        particles: images of each particle, one per camera.
        clip: CLIP.
        others: texts that the prompt is compared with.

    Raises:
        ValueError: if there is no other text.
    """
    texts = clip_texts(prompt, others)
    images = torch.cat([p.images[R_PRECISION_VIEWS] for p in particles])
    similarity = clip.similarity(images, texts)
    own = torch.zeros(len(images), dtype=torch.long)
    metrics = {
        "clip_score": clip_scores(similarity, own).mean().item(),
        "clip_texts": float(len(texts)),
        "clip": r_precision(similarity, 0),
    }
    shapes = [p.textureless[R_PRECISION_VIEWS] for p in particles if p.textureless is not None]
    if shapes:
        metrics["clip_shape"] = r_precision(clip.similarity(torch.cat(shapes), texts), 0)
    return metrics


def score_metrics(
    prompt: str, particles: Sequence[HeldOutImages], scores: Sequence[ImageScore]
) -> dict[str, float]:
    """Mean scores of the images at 30 degrees.

    Args:
        prompt: the prompt.
        particles: images of each particle, one per camera.
        scores: scores of single images.
    """
    views = [image for p in particles for image in p.images[R_PRECISION_VIEWS]]
    metrics = {}
    for score in scores:
        values = score_each(score, views, [prompt] * len(views))
        metrics[score.metric] = sum(values) / len(values)
    return metrics


def render_true_object(prompt: str, cameras: Camera, seed: int = 0) -> HeldOutImages:
    """Render the world's own object of a prompt through cameras.

    What the prompt leaves open is drawn at random, except for the pattern, which is plain.

    Args:
        prompt: a prompt that names one of the world's objects.
        cameras: the held-out cameras.
        seed: seed of the random draws.
    """
    from limbeck.world.normals import render_normals
    from limbeck.world.render_cache import images_to_tensor

    named, count = judgeable_attributes(prompt), len(cameras)
    rng = np.random.default_rng(seed)
    color = named.get("color", rng.integers(len(COLORS)))
    if "background" in named:
        background = np.full(count, named["background"])
    else:
        background = rng.integers(0, len(BACKGROUNDS), count)
    scenes = Scenes(
        object=np.full(count, named["object"]),
        color=np.full(count, color),
        pattern=np.full(count, named.get("pattern", 0)),
        background=background,
        azimuth=cameras.azimuth.numpy().astype(np.float64),
        elevation=cameras.elevation.numpy().astype(np.float64),
        distance=np.full(count, _WORLD_DISTANCE),
        brightness=np.ones(count),
    )
    world_cameras = held_out_cameras(_WORLD_DISTANCE, _WORLD_FOV)
    eye = world_cameras.eye.double().numpy()
    alpha, normal = map(torch.from_numpy, render_normals(scenes.object, eye, _WORLD_SIZE))
    textureless = render_textureless(alpha[:, None], normal.permute(0, 3, 1, 2), world_cameras)
    inside = torch.from_numpy(object_masks(scenes)[1])[:, None].float()
    return HeldOutImages(images_to_tensor(render_scenes(scenes)), textureless, inside)


def mean_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of every metric over the rows that have it."""
    names = dict.fromkeys(
        name for row in rows for name, value in row.items() if isinstance(value, float)
    )
    means = {}
    for name in names:
        values = [row[name] for row in rows if name in row]
        means[name] = sum(values) / len(values)
    return means


class PromptFeatures(NamedTuple):
    """The evaluator's features of the views of a prompt in one run.

    Attributes:
        prompt: the prompt.
        images: of the images.
        renders: of true renders through the same cameras.
        second: of a second draw of these.
    """

    prompt: str
    images: Float[Tensor, "n d"]
    renders: Float[Tensor, "n d"]
    second: Float[Tensor, "n d"]


def frechet_metric(features: Sequence[PromptFeatures]) -> dict[str, Any]:
    """Compute the Fréchet distance of images to true renders through the same cameras.

    Args:
        features: features of each prompt and run; several runs of a prompt are one unit.

    Returns:
        ``frechet``, ``frechet_floor``, that of the second draw, and from two prompts on
        ``frechet_interval``, of 95 %; empty with fewer than 256 images.
    """
    if sum(len(own.images) for own in features) < _MIN_FRECHET_IMAGES:
        return {}
    units = [own.prompt for own in features for _ in range(len(own.images))]
    images = torch.cat([own.images for own in features])
    renders = torch.cat([own.renders for own in features])
    second = torch.cat([own.second for own in features])
    interval = jackknife_interval(
        lambda kept: frechet_distance(images[kept], renders), units, (0.0, math.inf)
    )
    return {
        "frechet": frechet_distance(images, renders),
        "frechet_floor": frechet_distance(second, renders),
    } | ({"frechet_interval": interval} if interval is not None else {})
