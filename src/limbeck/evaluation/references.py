"""True images that sets of images are compared with: a folder, or renders of the world."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.evaluation.image_sets import Key, list_images, prompt_of
from limbeck.evaluation.measured_images import FeatureNetwork, embed_files, embed_images
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import OBJECTS, Scenes, random_scenes, render_scenes

WORLD = Path("world")  #: what names the renders of the world instead of a folder
_DRAWS_PER_VIEW = 40  #: scenes drawn for each one of a named view, of which at least 4 % fit


@dataclass(frozen=True)
class Reference:
    """Features of reference images in two parts.

    Attributes:
        features: what images are compared with.
        held_out: true images in the place of the images, for the floor.
    """

    features: Float[Tensor, "r d"]
    held_out: Float[Tensor, "m d"]


class ReferenceImages(abc.ABC):
    """True images for sets of any size."""

    @abc.abstractmethod
    def for_images(self, keys: Sequence[Key]) -> Reference:
        """The reference of a set of images.

        Args:
            keys: prompt and seed of each image.
        """


@dataclass(frozen=True)
class FolderReference(ReferenceImages):
    """The images of a folder.

    Attributes:
        features: their features.
    """

    features: Float[Tensor, "r d"]

    def for_images(self, keys: Sequence[Key]) -> Reference:
        """See ``ReferenceImages.for_images``; the split is random and the same each time."""
        return split_reference(self.features, len(keys))


@dataclass(frozen=True)
class WorldReference(ReferenceImages):
    """Two renders of the world for each image, of what its prompt says.

    Attributes:
        network: gives the features.
    """

    network: FeatureNetwork
    _cache: dict[tuple[Key, ...], Reference] = field(default_factory=dict, repr=False)

    def for_images(self, keys: Sequence[Key]) -> Reference:
        """See ``ReferenceImages.for_images``.

        Raises:
            ValueError: if a prompt names no object of the world.
        """
        if tuple(keys) not in self._cache:
            parts = []
            for draw in (0, 1):
                rng = np.random.default_rng(draw)
                counts: dict[str, int] = {}
                for prompt in (prompt_of(unit) for unit, _ in keys):
                    counts[prompt] = counts.get(prompt, 0) + 1
                scenes = [true_scenes(prompt, count, rng) for prompt, count in counts.items()]
                parts.append(torch.cat([self._embed(own) for own in scenes]))
            self._cache[tuple(keys)] = Reference(*parts)
        return self._cache[tuple(keys)]

    def _embed(self, scenes: Scenes) -> Float[Tensor, "n d"]:
        images = torch.from_numpy(np.array(render_scenes(scenes))).permute(0, 3, 1, 2).float() / 255
        return embed_images(list(images), self.network)


def true_scenes(prompt: str, count: int, rng: np.random.Generator) -> Scenes:
    """Draw scenes of the world that a prompt describes.

    What it leaves open is drawn at random, except for the pattern, which is plain.

    Args:
        prompt: the prompt.
        count: number of scenes.
        rng: source of all randomness.

    Raises:
        ValueError: if the prompt names no object of the world.
    """
    named = judgeable_attributes(prompt)
    if not named:
        raise ValueError(
            f"--reference world renders the world's objects ({', '.join(OBJECTS)}), and "
            f"{prompt!r} names none: give a folder of true images"
        )
    if "view" in named:
        scenes = _scenes_from(named["view"], count, rng)
    else:
        scenes = random_scenes(count, rng)
    fixed = {"pattern": 0} | {name: i for name, i in named.items() if name != "view"}
    return replace(scenes, **{name: np.full(count, value) for name, value in fixed.items()})


def _scenes_from(view: int, count: int, rng: np.random.Generator) -> Scenes:
    """Random scenes seen from one view."""
    while True:  # a draw that has too few of them is rare, and independent of what they show
        scenes = random_scenes(count * _DRAWS_PER_VIEW, rng)
        fitting = (scenes.view == view).nonzero()[0]
        if len(fitting) >= count:
            return scenes[fitting[:count]]


def open_reference(folder: Path | None, network: FeatureNetwork) -> ReferenceImages | None:
    """Open what ``--reference`` names: a folder of images, or ``world``.

    Args:
        folder: the folder; None: no reference.
        network: gives the features.

    Raises:
        ValueError: if there are no images, or the world cannot be rendered.
    """
    if folder is None:
        return None
    if folder == WORLD and not folder.exists():
        if find_spec("numba") is None:
            raise ValueError(
                "--reference world renders the world, for which numba is missing: pip install "
                "'limbeck[world]', or give a folder of true images"
            )
        return WorldReference(network)
    return FolderReference(embed_files(list_images(folder), network))


def split_reference(features: Float[Tensor, "r d"], count: int) -> Reference:
    """Split a reference at random, the same way each time.

    At most half is held out, so that a smaller reference is compared with fewer images.

    Args:
        features: features of all reference images.
        count: number of images to compare.

    Raises:
        ValueError: with fewer than four reference images.
    """
    if len(features) < 4:
        raise ValueError(f"a reference needs at least 4 images, not {len(features)}")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    held_out = min(count, len(features) // 2)
    return Reference(features[order[held_out:]], features[order[:held_out]])


def compared_rows(count: int, reference: Reference | None) -> Int[Tensor, "m"]:
    """The rows that are compared with a reference: all, or as many at random as it holds out."""
    held_out = count if reference is None else len(reference.held_out)
    if held_out >= count:
        return torch.arange(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:held_out].sort().values
