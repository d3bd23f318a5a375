"""Metrics of single images and of the images of one prompt, and features of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.evaluation.image_sets import ImageSet, Key
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.clip_score import clip_scores
from limbeck.metrics.feature_diversity import feature_diversity
from limbeck.metrics.image_statistics import clipped, diversity, saturation, total_variation
from limbeck.metrics.preference import hps_scores, pick_scores
from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.r_precision import candidate_log_probs, ranks_first
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
        pads: whether images are padded to a square with black, not cropped.
    """

    name: str
    size: int
    embed: Callable[[Tensor], Float[Tensor, "n d"]]
    pads: bool = False


@dataclass(frozen=True)
class MeasuredImages:
    """What is known of a set of images.

    Attributes:
        label: what made them.
        keys: prompt and seed of each image.
        features: features of each image.
        values: metrics by name, then by prompt and seed. Those of a whole prompt, such as
            diversity, have the seed of the run and index 0.
        floors: what the true law has in a metric at the same sample size, by name, then as above.
    """

    label: str
    keys: tuple[Key, ...]
    features: Float[Tensor, "n d"]
    values: dict[str, dict[Key, float]]
    floors: dict[str, dict[Key, float]] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The different prompts, in order."""
        return tuple(dict.fromkeys(prompt for prompt, _ in self.keys))


def center_square(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 s s"]:
    """The largest square in the center of an image."""
    height, width = image.shape[-2:]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return image[:, top : top + size, left : left + size]


def pad_square(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 s s"]:
    """The smallest square around an image, black beside it."""
    height, width = image.shape[-2:]
    size = max(height, width)
    top, left = (size - height) // 2, (size - width) // 2
    sides = (left, size - width - left, top, size - height - top)
    return torch.nn.functional.pad(image, sides)


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
    size = (network.size, network.size)
    squares = []
    for image in images:
        square = (pad_square(image) if network.pads else center_square(image))[None]
        if square.shape[-2:] != size:
            resize = torch.nn.functional.interpolate
            square = resize(square, size, mode="bicubic", antialias=True).clamp(0, 1)
        squares.append(square)
    return network.embed(torch.cat(squares)).detach().cpu()


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
    for (prompt, seed), rows in groups.items():
        kept: list[Tensor] = []
        for row in rows:
            image = read_whole_image(images.paths[row])
            for name, value in _image_values(image[None], prompt, evaluator).items():
                values.setdefault(name, {})[images.keys[row]] = value
            if len(kept) < _MAX_PAIRED_IMAGES:
                kept.append(image)
        if smallest > 1:
            for name, value in _group_values(kept, features[rows], smallest).items():
                values.setdefault(name, {})[prompt, (seed, 0)] = value
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
    measured: MeasuredImages, clip: CLIPSimilarity, others: Sequence[str] = ()
) -> MeasuredImages:
    """Add CLIP score and CLIP R-Precision to images whose features are those of CLIP.

    Args:
        measured: the images, with the embeddings of ``clip`` as features.
        clip: CLIP.
        others: texts that prompts are compared with, besides the other prompts of the set. Without
            any there is no R-Precision.
    """
    texts = {text: i for i, text in enumerate(dict.fromkeys([*measured.prompts, *others]))}
    own = torch.tensor([texts[prompt] for prompt, _ in measured.keys])
    embeds = clip.embed_texts(list(texts))
    columns: dict[str, list[float]] = {"clip_score": [], "clip_r_precision": []}
    chunks = zip(measured.features.split(_TEXT_CHUNK), own.split(_TEXT_CHUNK), strict=True)
    for features, index in chunks:
        similarity = features @ embeds.T
        columns["clip_score"] += clip_scores(similarity, index).tolist()
        if len(texts) > 1:
            columns["clip_r_precision"] += ranks_first(similarity, index).float().tolist()
    by_key = {
        name: dict(zip(measured.keys, column, strict=True))
        for name, column in columns.items()
        if column
    }
    return MeasuredImages(
        measured.label, measured.keys, measured.features, by_key | measured.values, measured.floors
    )


def add_preferences(
    measured: MeasuredImages,
    images: ImageSet,
    pick: CLIPSimilarity | None = None,
    hps: CLIPSimilarity | None = None,
) -> MeasuredImages:
    """Add PickScore and HPSv2.

    Args:
        measured: the images.
        images: their files.
        pick: model of PickScore; None: without it.
        hps: model of HPSv2; None: without it.
    """
    scores = {}
    if pick is not None:
        scores["pick_score"] = pick_scores(pick, *_embed_pairs(images, pick, pads=False))
    if hps is not None:
        scores["hps"] = hps_scores(*_embed_pairs(images, hps, pads=True))
    by_key = {
        name: dict(zip(images.keys, own.tolist(), strict=True)) for name, own in scores.items()
    }
    return replace(measured, values=by_key | measured.values)


def _embed_pairs(
    images: ImageSet, model: CLIPSimilarity, pads: bool
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Embeddings of the images and of the prompt of each."""
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(p for p, _ in images.keys))}
    texts = model.embed_texts(list(prompts))
    network = FeatureNetwork("", model.size, model.embed_images, pads)
    own = torch.tensor([prompts[prompt] for prompt, _ in images.keys])
    return embed_files(images.paths, network), texts[own]


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
    return MeasuredImages(
        sets[0].label, tuple(keys), torch.stack(list(keys.values())), values, floors
    )
