"""Metrics of single images and of the images of one prompt, and features of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.evaluation.image_sets import ImageSet, Key, prompt_of
from limbeck.metrics.bounds import Bounds
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.clip_score import clip_scores
from limbeck.metrics.feature_diversity import feature_diversity
from limbeck.metrics.image_scores.base import ImageScore, bounds_of, score_each
from limbeck.metrics.image_statistics import clipped, diversity, saturation, total_variation
from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.r_precision import candidate_log_probs, compared_columns, ranks_first
from limbeck.metrics.square_images import fit_squares
from limbeck.metrics.vendi import vendi_score
from limbeck.system.image_files import read_whole_image
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import ATTRIBUTES

_CHUNK = 32
_TEXT_CHUNK = 1024  #: images whose similarity to all texts is in memory at once
_VENDI_IMAGES = (4, 8)  #: of each prompt: the score grows with their number, so it is fixed
_MAX_PAIRED_IMAGES = 64  #: of each prompt are compared in pixels, which must be in memory


@dataclass(frozen=True)
class FeatureNetwork:
    """The network in whose features sets of images are compared.

    Attributes:
        name: what it is.
        size: height and width of its images.
        embed: maps images in [0, 1] to features, on the CPU.
    """

    name: str
    size: int
    embed: Callable[[Tensor], Float[Tensor, "n d"]]


@dataclass(frozen=True)
class MeasuredImages:
    """What is known of a set of images.

    Attributes:
        label: what made them.
        keys: prompt and seed of each image.
        features: features of each image; of no columns for particles that are no images.
        values: metrics by name, then by prompt and seed. Those of a whole prompt, such as
            diversity, have the seed of the run and index 0.
        floors: what the true law has in a metric at the same sample size, by name, then as above.
        bounds: smallest and largest possible value of scores of one's own, by name.
        noun: what each of them is called.
    """

    label: str
    keys: tuple[Key, ...]
    features: Float[Tensor, "n d"]
    values: dict[str, dict[Key, float]]
    floors: dict[str, dict[Key, float]] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=dict)
    noun: str = "image"

    @property
    def has_features(self) -> bool:
        """Whether metrics of the whole set can be computed, which are of features."""
        return self.features.shape[1] > 0

    @property
    def prompts(self) -> tuple[str, ...]:
        """The different prompts, in order."""
        return tuple(dict.fromkeys(prompt_of(unit) for unit, _ in self.keys))

    def means_by_prompt(self) -> list[dict[str, Any]]:
        """The metrics of each prompt, means over its images, beside the prompt itself."""
        rows: dict[str, dict[str, Any]] = {prompt: {"prompt": prompt} for prompt in self.prompts}
        for name, column in self.values.items():
            own: dict[str, list[float]] = {}
            for (unit, _), value in column.items():
                own.setdefault(prompt_of(unit), []).append(value)
            for prompt, values in own.items():
                rows[prompt][name] = sum(values) / len(values)
        return list(rows.values())


@torch.no_grad()
def embed_files(paths: Sequence[Path], network: FeatureNetwork) -> Float[Tensor, "n d"]:
    """Return the features of image files, made square and resized bicubically.

    Args:
        paths: image files of any sizes.
        network: the network.
    """
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    return torch.cat([embed_images(map(read_whole_image, chunk), network) for chunk in chunks])


@torch.no_grad()
def embed_images(
    images: Iterable[Float[Tensor, "3 h w"]], network: FeatureNetwork
) -> Float[Tensor, "n d"]:
    """Return the features of images, made square and resized bicubically.

    Args:
        images: images in [0, 1] of any sizes.
        network: the network.
    """
    return network.embed(fit_squares(images, network.size)).detach().cpu()


@torch.no_grad()
def measure_images(images: ImageSet, network: FeatureNetwork, evaluator: Any) -> MeasuredImages:
    """Measure all images of a set.

    Metrics of the images of a prompt, such as diversity, need two or more of every prompt.

    Args:
        images: the set.
        network: gives the features.
        evaluator: the world's evaluator; it judges images of 64 x 64 pixels whose prompt names an
            object of the world.
    """
    features = embed_files(images.paths, network)
    values: dict[str, dict[Key, float]] = {}
    groups: dict[tuple[str, int], list[int]] = {}
    for row, (prompt, (seed, _)) in enumerate(images.keys):
        groups.setdefault((prompt, seed), []).append(row)
    smallest = min(map(len, groups.values()))
    for (unit, seed), rows in groups.items():
        kept: list[Tensor] = []
        for row in rows:
            image = read_whole_image(images.paths[row])
            for name, value in _image_values(image[None], prompt_of(unit), evaluator).items():
                values.setdefault(name, {})[images.keys[row]] = value
            if len(kept) < _MAX_PAIRED_IMAGES:
                kept.append(image)
        if smallest > 1:
            for name, value in _group_values(kept, features[rows], smallest).items():
                values.setdefault(name, {})[unit, (seed, 0)] = value
    return MeasuredImages(images.label, images.keys, features, values)


def _image_values(image: Float[Tensor, "1 3 h w"], prompt: str, evaluator: Any) -> dict[str, float]:
    """Metrics of one image."""
    values: dict[str, float] = {}
    if image.shape[-2:] == (64, 64) and judgeable_attributes(prompt):
        logits = evaluator(image)
        verdict = torch.stack([logits[name].argmax(1) for name in ATTRIBUTES], 1)
        values |= agreement(verdict, [prompt])
        log_probs = candidate_log_probs(logits, prompt)
        values["r_precision"] = float(ranks_first(log_probs, torch.zeros(1, dtype=torch.long)))
    return values | {
        "saturation": saturation(image),
        "clipped": clipped(image),
        "total_variation": total_variation(image),
    }


def _group_values(
    images: Sequence[Float[Tensor, "3 h w"]], features: Float[Tensor, "n d"], smallest: int
) -> dict[str, float]:
    """Metrics of two or more images of one prompt.

    Args:
        images: the images, or the first of them.
        features: features of all.
        smallest: smallest number of images of a prompt of the set.
    """
    values = {"feature_diversity": feature_diversity(features, lambda x: x)}
    for count in _VENDI_IMAGES:
        if count <= smallest:
            values[f"vendi_{count}"] = vendi_score(features[:count])
    if len({image.shape for image in images}) == 1:
        values["diversity"] = diversity(torch.stack(list(images)))
    return {name: value for name, value in values.items() if value is not None}


def add_clip_values(
    measured: MeasuredImages,
    image_embeds: Float[Tensor, "n d"],
    clip: CLIPSimilarity,
    others: Sequence[str] = (),
) -> MeasuredImages:
    """Add CLIP score and CLIP R-Precision to images.

    Args:
        measured: the images.
        image_embeds: embedding of each image by ``clip``.
        clip: CLIP.
        others: texts that each prompt is compared with; it may be among them. A prompt without any
            other has no R-Precision.
    """
    texts = {text: i for i, text in enumerate(dict.fromkeys([*measured.prompts, *others]))}
    is_compared = compared_columns(measured.prompts, list(texts), others)
    own = torch.tensor([texts[prompt_of(unit)] for unit, _ in measured.keys])  # its row too
    embeds = clip.embed_texts(list(texts))
    scores: list[float] = []
    matched: list[float] = []
    chunks = zip(image_embeds.split(_TEXT_CHUNK), own.split(_TEXT_CHUNK), strict=True)
    for images, index in chunks:
        similarity = images @ embeds.T
        scores += clip_scores(similarity, index).tolist()
        compared = similarity.masked_fill(~is_compared[index], -torch.inf)
        matched += ranks_first(compared, index).float().tolist()
    has_others = (is_compared.sum(1) > 1)[own].tolist()
    columns = {
        "clip_score": dict(zip(measured.keys, scores, strict=True)),
        "clip_r_precision": {
            key: value
            for key, value, is_asked in zip(measured.keys, matched, has_others, strict=True)
            if is_asked
        },
    }
    values = {name: column for name, column in columns.items() if column} | measured.values
    return replace(measured, values=values)


def add_scores(
    measured: MeasuredImages, images: ImageSet, scores: Sequence[ImageScore]
) -> MeasuredImages:
    """Add scores of single images for their prompts.

    Args:
        measured: the images.
        images: their files.
        scores: the scores.
    """
    values = dict(measured.values)
    for score in scores:
        found: list[float] = []
        for start in range(0, len(images.paths), _CHUNK):
            rows = slice(start, start + _CHUNK)
            own = [read_whole_image(path) for path in images.paths[rows]]
            found += score_each(score, own, [prompt_of(unit) for unit, _ in images.keys[rows]])
        values[score.metric] = dict(zip(images.keys, found, strict=True))
    return replace(measured, values=values, bounds=bounds_of(scores))


def merge_measured(sets: Sequence[MeasuredImages]) -> MeasuredImages:
    """Join sets of one label; an image with a prompt and seed that occurred before is left out."""
    keys: dict[Key, Tensor] = {}
    values: dict[str, dict[Key, float]] = {}
    floors: dict[str, dict[Key, float]] = {}
    for measured in sets:
        for key, feature in zip(measured.keys, measured.features, strict=True):
            keys.setdefault(key, feature)
        for joined, own in ((values, measured.values), (floors, measured.floors)):
            for name, column in own.items():
                joined[name] = column | joined.get(name, {})
    features = torch.stack(list(keys.values()))
    return replace(sets[0], keys=tuple(keys), features=features, values=values, floors=floors)
