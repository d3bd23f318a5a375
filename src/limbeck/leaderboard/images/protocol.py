"""What a leaderboard compares: methods, prompts, budgets, and the settings tried for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from limbeck.config.checks import check_options
from limbeck.diffusion.model_options import Precision
from limbeck.leaderboard.execution.quick_options import limit_with_quick, refuse_with_quick
from limbeck.leaderboard.execution.text_to_image import (
    SAMPLING,
    TunedSetting,
    check_methods,
    default_guidance,
    text_to_image_methods,
)
from limbeck.leaderboard.execution.tuning import check_candidates, rounded_lr
from limbeck.world.scene import Scenes, full_captions, random_scenes

_PROMPT_SEED, _REFERENCE_SEED, _MEASURED_SEED = 20_011, 20_012, 20_013
_MEASURED_PROMPTS = 16


@dataclass(frozen=True)
class Leaderboard:
    """A comparison of methods on the embedded model.

    Every method gets the same prompts, seeds and network passes. Its guidance scale and learning
    rate are those that are best on other prompts among equally many candidates.

    Attributes:
        methods: methods to compare, also your own as FILE.py:Class, and ``sampling``. Empty: all
            that start from noise, and plain sampling.
        num_prompts: held-out captions that methods are compared on.
        seeds: images per caption.
        tuning_prompts: other held-out captions, of one image each, for the choice of the guidance
            scale and learning rate. 0: the defaults of each method.
        diverse_prompts: the first captions, of which eight images each are made, for diversity.
            0: no diversity.
        passes: network passes per image: a row through the network is one pass, a row whose
            gradient is computed three.
        iterations: steps of a second comparison at equally many steps. 0: no such comparison.
        guidance_candidates: guidance scales that are tried.
        lr_candidates: learning rates that are tried with each of them.
        quick: a first look: 8 captions, an image of each, 300 passes, defaults, images only.
            With --edits, --in-3d or another --model it is another one, which their --help states.
        precision: dtype of the model, as in a run.
        seed: seed of every run.
    """

    options_file: ClassVar[str] = "leaderboard.yaml"

    methods: tuple[str, ...] = ()
    num_prompts: int = field(default=96, metadata={"minimum": 1, "maximum": 1000})
    seeds: int = field(default=2, metadata={"minimum": 1, "maximum": 1000})
    tuning_prompts: int = field(default=16, metadata={"minimum": 0, "maximum": 1000})
    diverse_prompts: int = field(default=8, metadata={"minimum": 0, "maximum": 1000})
    passes: int = field(default=600, metadata={"minimum": 1})
    iterations: int = field(default=300, metadata={"minimum": 0})
    guidance_candidates: tuple[float, ...] = (3.0, 7.5, 25.0, 100.0)
    lr_candidates: tuple[float, ...] = (0.05, 0.1)
    quick: bool = False
    precision: Precision = "auto"
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**32 - 1})

    def __post_init__(self) -> None:
        check_options(self)
        check_methods(self.methods)
        check_candidates(self, ("guidance_candidates", "lr_candidates"))
        if self.diverse_prompts > self.num_prompts and not self.quick:
            object.__setattr__(self, "diverse_prompts", self.num_prompts)
        if self.quick:
            refuse_with_quick(self, ("tuning_prompts", "diverse_prompts", "iterations"))
            limit_with_quick(self, num_prompts=8, seeds=1, passes=300)
            for name in ("tuning_prompts", "diverse_prompts", "iterations"):
                object.__setattr__(self, name, 0)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows of the table."""
        return tuple(dict.fromkeys(self.methods)) or (SAMPLING, *text_to_image_methods())

    def scenes(self) -> tuple[Scenes, Scenes]:
        """Held-out scenes with different captions: those of the comparison, those of the tuning."""
        total = self.num_prompts + self.tuning_prompts
        scenes = random_scenes(3 * total + 50, np.random.default_rng(_PROMPT_SEED), unseen=True)
        _, first = np.unique(full_captions(scenes), return_index=True)
        distinct = scenes[np.sort(first)]
        if len(distinct) < total:
            raise ValueError(f"the world has fewer than {total} held-out captions: ask for fewer")
        return (
            distinct[slice(0, self.num_prompts)],
            distinct[slice(self.num_prompts, total)],
        )

    def measured_prompts(self) -> tuple[str, ...]:
        """Held-out captions, none of the comparison, for what is measured besides its images."""
        compared = set(full_captions(self.scenes()[0]))
        count = len(compared) + _MEASURED_PROMPTS
        scenes = random_scenes(3 * count, np.random.default_rng(_MEASURED_SEED), unseen=True)
        others = [text for text in dict.fromkeys(full_captions(scenes)) if text not in compared]
        if len(others) < _MEASURED_PROMPTS:
            raise ValueError(
                f"the world has fewer than {count} held-out captions, of which "
                f"{_MEASURED_PROMPTS} are measured besides the comparison: ask for fewer"
            )
        return tuple(others[:_MEASURED_PROMPTS])

    def reference_scenes(self, count: int, part: int) -> Scenes:
        """Other held-out scenes, whose renders samples are compared with.

        Args:
            count: number of scenes.
            part: number of the set.
        """
        return random_scenes(count, np.random.default_rng((_REFERENCE_SEED, part)), unseen=True)


def candidates(board: Leaderboard, name: str) -> tuple[TunedSetting, ...]:
    """The settings tried for a row, equally many for each.

    A method without guidance scale, and sampling without learning rate, get as many values of
    what they have, spaced evenly on a logarithmic scale between the outer ones.

    Args:
        board: the leaderboard.
        name: name of the row.
    """
    scales, lrs = board.guidance_candidates, board.lr_candidates
    if not board.tuning_prompts:
        lr = 0.0 if name == SAMPLING else 0.1
        return (TunedSetting(lr, default_guidance(name)),)
    count = len(scales) * len(lrs)
    if name == SAMPLING:
        between = np.geomspace(min(1.0, *scales), min(max(scales), 15.0), count)
        return tuple(TunedSetting(0.0, float(round(scale, 2))) for scale in between)
    if default_guidance(name) is None:
        between = np.geomspace(min(lrs) / 2, 2 * max(lrs), count)
        return tuple(TunedSetting(rounded_lr(lr), None) for lr in between)
    return tuple(TunedSetting(lr, scale) for scale in scales for lr in lrs)
