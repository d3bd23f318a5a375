"""Pairs of scenes that differ in one attribute: what is edited, and how the result should look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.world.evaluator import Evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    OBJECTS,
    PATTERNS,
    Scenes,
    caption,
    object_masks,
    random_scenes,
    render_scenes,
)

CHANGED = ("color", "pattern", "background", "object")  #: attributes that are edited
_COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}
_BLOCK, _MAX_BLOCKS = 256, 40  #: scenes drawn at once; more blocks mean that there are too few


@dataclass(frozen=True)
class EditPairs:
    """Scenes before and after an edit of one attribute.

    Attributes:
        before: scenes of the source images.
        after: the same scenes after the edit, with the same camera and light.
        changed: name of the attribute in which each pair differs.
    """

    before: Scenes
    after: Scenes
    changed: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.changed)

    def __getitem__(self, rows: slice) -> EditPairs:
        return EditPairs(self.before[rows], self.after[rows], self.changed[rows])

    @property
    def source_prompts(self) -> tuple[str, ...]:
        """Captions of the source images, without the view, which should not change."""
        return _captions(self.before)

    @property
    def target_prompts(self) -> tuple[str, ...]:
        """Captions of what the edited images should show."""
        return _captions(self.after)

    def source_images(self) -> Float[Tensor, "n 3 h w"]:
        """Renders of the scenes before, in [0, 1]."""
        return images_to_tensor(render_scenes(self.before))

    def target_images(self) -> Float[Tensor, "n 3 h w"]:
        """Renders of the scenes after: the true results."""
        return images_to_tensor(render_scenes(self.after))

    def masks(self) -> Bool[Tensor, "n 1 h w"]:
        """Pixels that may change.

        Of a new background they are all that show some background, otherwise those that show
        something of the object before or after.
        """
        some_before, all_before = object_masks(self.before)
        some_after, all_after = object_masks(self.after)
        background = np.array([name == "background" for name in self.changed])[:, None, None]
        masks = np.where(background, ~(all_before & all_after), some_before | some_after)
        return torch.from_numpy(masks)[:, None]


def _captions(scenes: Scenes) -> tuple[str, ...]:
    return tuple(
        caption(OBJECTS[o], COLORS[c], PATTERNS[p], BACKGROUNDS[b])
        for o, c, p, b, _ in scenes.labels()
    )


def correct_attributes(
    scenes: Scenes, images: Float[Tensor, "n 3 h w"], evaluator: Evaluator
) -> Bool[np.ndarray, "n 5"]:
    """Whether the evaluator sees each attribute of a scene in its image.

    The view is always correct for objects whose views look the same.

    Args:
        scenes: the scenes.
        images: the images.
        evaluator: the world's evaluator.
    """
    correct = evaluator.judge(images).numpy() == scenes.labels()
    correct[:, _COLUMN["view"]] |= ~scenes.asymmetric
    return correct


def draw_pairs(count: int, seed: int, evaluator: Evaluator) -> EditPairs:
    """Draw pairs whose source shows a combination held out from training, with different prompts.

    Attributes take turns. Both renders are recognized by the evaluator, so that its verdict on an
    edited image can be trusted.

    Args:
        count: number of pairs.
        seed: seed of the draw; a larger count begins with the same pairs.
        evaluator: the world's evaluator.

    Raises:
        ValueError: if there are not enough of them.
    """
    rng = np.random.default_rng(seed)
    chosen: list[EditPairs] = []
    prompts: set[tuple[str, str]] = set()
    for _ in range(_MAX_BLOCKS):
        for pair in _recognized(_candidates(rng), evaluator):
            key = pair.source_prompts[0], pair.target_prompts[0]
            is_next = pair.changed[0] == CHANGED[len(chosen) % len(CHANGED)]
            if len(chosen) < count and is_next and key not in prompts:
                chosen.append(pair)
                prompts.add(key)
        if len(chosen) == count:
            return _joined(chosen)
    raise ValueError(f"the world has fewer than {count} such pairs: ask for fewer")


def _candidates(rng: np.random.Generator) -> EditPairs:
    """Held-out scenes, and the same with one attribute changed to another value."""
    before = random_scenes(_BLOCK, rng, unseen=True)
    changed = tuple(CHANGED[i % len(CHANGED)] for i in range(_BLOCK))
    values = {name: getattr(before, name).copy() for name in CHANGED}
    for i, name in enumerate(changed):
        num_values = len(ATTRIBUTES[name])
        values[name][i] = (values[name][i] + rng.integers(1, num_values)) % num_values
    return EditPairs(before, replace(before, **values), changed)


def _recognized(pairs: EditPairs, evaluator: Evaluator) -> list[EditPairs]:
    """The pairs, one by one, of which the evaluator recognizes both renders."""
    correct = np.ones(len(pairs), bool)
    for scenes, images in (
        (pairs.before, pairs.source_images()),
        (pairs.after, pairs.target_images()),
    ):
        correct &= correct_attributes(scenes, images, evaluator).all(1)
    return [pairs[i : i + 1] for i in np.flatnonzero(correct).tolist()]


def _joined(pairs: Sequence[EditPairs]) -> EditPairs:
    before, after = (
        Scenes(
            **{name: np.concatenate([getattr(s, name) for s in scenes]) for name in vars(scenes[0])}
        )
        for scenes in ([pair.before for pair in pairs], [pair.after for pair in pairs])
    )
    return EditPairs(before, after, tuple(pair.changed[0] for pair in pairs))
