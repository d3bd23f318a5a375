"""What a leaderboard compares: methods, prompts, budgets, and the settings tried for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from limbeck.config.checks import check_options
from limbeck.config.discovery import choices, find
from limbeck.diffusion.model_options import Precision
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.irfds import IRFDS
from limbeck.training.model_defaults import default_experiment
from limbeck.world.scene import Scenes, full_captions, random_scenes

SAMPLING = "sampling"  #: name of the row of plain samples
_PROMPT_SEED, _REFERENCE_SEED, _MEASURED_SEED = 20_011, 20_012, 20_013
_MEASURED_PROMPTS = 16

Budget = Literal["passes", "iterations"]


def refuse_with_quick(board: Any, names: Sequence[str]) -> None:
    """Refuse options of what a quick leaderboard leaves out.

    Args:
        board: options of a leaderboard.
        names: those that are 0 in a quick one.

    Raises:
        ValueError: if one is given.
    """
    defaults = {option.name: option.default for option in fields(board)}
    for name in names:
        if getattr(board, name) not in (0, defaults[name]):
            raise ValueError(
                f"{name} has no effect with quick, which leaves it out: leave out one of them"
            )


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
        quick: a comparison in about 15 minutes of two cores: 16 captions, 300 passes, defaults.
        precision: dtype of the model, as in a run.
        seed: seed of every run.
    """

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
        for name in self.methods:
            if name != SAMPLING:
                find_method(name)
        for name in ("guidance_candidates", "lr_candidates"):
            values = getattr(self, name)
            if not values or any(value <= 0 for value in values):
                raise ValueError(f"{name} must be positive numbers, at least one, not {values}")
        if self.diverse_prompts > self.num_prompts and not self.quick:
            object.__setattr__(self, "diverse_prompts", self.num_prompts)
        if self.quick:
            refuse_with_quick(self, ("tuning_prompts", "diverse_prompts", "iterations"))
            object.__setattr__(self, "num_prompts", min(self.num_prompts, 16))
            object.__setattr__(self, "passes", min(self.passes, 300))
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


@dataclass(frozen=True)
class TunedSetting:
    """What is tuned.

    Attributes:
        lr: learning rate of the latents; 0 for sampling, which has none.
        guidance: guidance scale. None: the method has none.
    """

    lr: float
    guidance: float | None


def text_to_image_methods() -> Mapping[str, type[Method]]:
    """The methods that start from noise, by name."""
    methods: Mapping[str, type[Method]] = choices(Method)
    return {name: cls for name, cls in methods.items() if not issubclass(cls, EditMethod | IRFDS)}


def find_method(name: str) -> type[Method]:
    """The class of a row.

    Args:
        name: name of a method that starts from noise, or FILE.py:Class.

    Raises:
        ValueError: if there is no such method, or it starts from an image.
    """
    method: type[Method] = find(Method, name)
    if issubclass(method, EditMethod | IRFDS):
        known = ", ".join((SAMPLING, *text_to_image_methods()))
        raise ValueError(
            f"{name} starts from an image, which the leaderboard does not give it; accepted: "
            f"{known}, or FILE.py:Class"
        )
    return method


def default_guidance(name: str) -> float | None:
    """The guidance scale of a row on the embedded model by default; None if it has none."""
    if name == SAMPLING:
        return 5.0
    default = default_experiment(("any",), {"method": name}).method
    method = default if isinstance(default, find_method(name)) else find_method(name)()
    return next((getattr(method, f.name) for f in fields(method) if f.name == "guidance"), None)


def method_with(name: str, setting: TunedSetting) -> Method:
    """A method with a guidance scale and else its defaults."""
    method = find_method(name)()
    return method if setting.guidance is None else replace(method, guidance=setting.guidance)  # type: ignore[call-arg]


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
        return tuple(TunedSetting(float(round(lr, 4)), None) for lr in between)
    return tuple(TunedSetting(lr, scale) for scale in scales for lr in lrs)
