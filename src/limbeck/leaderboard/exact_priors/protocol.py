"""What a leaderboard on an exact prior compares: methods, seeds, and the settings tried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from limbeck.config.checks import check_options
from limbeck.config.discovery import unknown_name
from limbeck.leaderboard.execution.quick_options import limit_with_quick, refuse_with_quick
from limbeck.leaderboard.execution.text_to_image import (
    SAMPLING,
    TunedSetting,
    check_methods,
    default_guidance,
    text_to_image_methods,
)
from limbeck.leaderboard.execution.tuning import check_candidates, rounded_lr
from limbeck.metrics.true_law import ExactPrior
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.priors.loading import EXACT_MODELS, is_exact, load

TUNING_SEEDS = 1_000_000  #: Seeds of the tuning are so much larger than those of the comparison.
_PLAIN_LR = 0.05


@dataclass(frozen=True)
class ExactLeaderboard:
    """A comparison of methods on an exact prior, whose law of x0 is known.

    Every method gets the same seeds, initial particles and network passes. Its guidance scale and
    learning rate are those with the smallest energy distance at other seeds, among equally many
    candidates.

    Attributes:
        model: the exact prior: gaussians, gaussians-flow, dataset:FOLDER, or FILE.py:Class of a
            Gaussian mixture of your own.
        prompt: prompt of all runs. It selects the modes of the law, if the model has labels.
        methods: methods to compare, also your own as FILE.py:Class, and ``sampling``. Empty: all
            that start from noise and move on this law, and plain sampling.
        particles: particles of a run.
        seeds: runs of each method.
        tuning_seeds: other runs for the choice of the guidance scale and learning rate. 0: guidance
            scale 1 and learning rate 0.05.
        passes: network passes per particle: a row through the network is one pass, a row whose
            gradient is computed three.
        iterations: steps of a second comparison at equally many steps. 0: no such comparison.
        guidance_candidates: guidance scales that are tried.
        lr_candidates: learning rates that are tried with each of them.
        quick: a comparison in about a minute: 3 seeds, 100 passes, nothing tuned.
        seed: first seed.
    """

    options_file: ClassVar[str] = "exact-leaderboard.yaml"

    model: str = "gaussians"
    prompt: str = "ring"
    methods: tuple[str, ...] = ()
    particles: int = field(default=64, metadata={"minimum": 2, "maximum": 100_000})
    seeds: int = field(default=8, metadata={"minimum": 1, "maximum": 1000})
    tuning_seeds: int = field(default=2, metadata={"minimum": 0, "maximum": 1000})
    passes: int = field(default=200, metadata={"minimum": 1})
    iterations: int = field(default=100, metadata={"minimum": 0})
    guidance_candidates: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    lr_candidates: tuple[float, ...] = (0.02, 0.1)
    quick: bool = False
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**31})

    def __post_init__(self) -> None:
        check_options(self)
        if not is_exact(self.model) and ".py" not in self.model:
            names = (*EXACT_MODELS, "dataset:FOLDER", "FILE.py:Class")
            raise unknown_name("exact prior", self.model, names)
        if not self.prompt.strip():
            raise ValueError("prompt is missing: give a text that is not empty")
        check_methods(self.methods)
        check_candidates(self, ("guidance_candidates", "lr_candidates"))
        if self.quick:
            refuse_with_quick(self, ("tuning_seeds", "iterations"))
            limit_with_quick(self, seeds=3, passes=100)
            for name in ("tuning_seeds", "iterations"):
                object.__setattr__(self, name, 0)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows of the table."""
        return tuple(dict.fromkeys(self.methods)) or (SAMPLING, *text_to_image_methods())


def load_law(model: str) -> ExactPrior:
    """The exact prior of a leaderboard.

    Args:
        model: its name, or FILE.py:Class.

    Raises:
        ValueError: if it has no law in closed form.
    """
    prior = load(model, "cpu", "float32")
    if not isinstance(prior, GaussianMixture | DataSet):
        raise ValueError(
            f"{model} is a {type(prior).__name__}, whose law is not known: derive it from "
            "limbeck.priors.exact.GaussianMixture"
        )
    return prior


def reads_prompt(prior: ExactPrior, prompt: str) -> bool:
    """Whether the law given a prompt differs from that without, so that guidance has an effect.

    Args:
        prior: the exact prior.
        prompt: the prompt.

    Raises:
        ValueError: if the prompt names nothing of the prior.
    """
    own, null = (prior.condition([text]).data[0].double() for text in (prompt, ""))
    return not own.softmax(0).equal(null.softmax(0))


def exact_candidates(
    board: ExactLeaderboard, name: str, has_guidance: bool
) -> tuple[TunedSetting, ...]:
    """The settings tried for a row, equally many for each.

    What has no guidance scale, or none with an effect, gets as many learning rates; sampling, which
    has no learning rate, as many guidance scales.

    Args:
        board: the leaderboard.
        name: name of the row.
        has_guidance: whether guidance has an effect, see ``reads_prompt``.
    """
    scales, lrs = board.guidance_candidates, board.lr_candidates
    count = len(scales) * len(lrs)
    unguided = None if default_guidance(name) is None else 1.0
    if name == SAMPLING:
        if not board.tuning_seeds or not has_guidance:
            return (TunedSetting(0.0, 1.0),)
        between = np.geomspace(min(scales), max(scales), count)
        return tuple(TunedSetting(0.0, float(round(scale, 2))) for scale in between)
    if not board.tuning_seeds:
        return (TunedSetting(_PLAIN_LR, unguided),)
    if unguided is None or not has_guidance:
        between = np.geomspace(min(lrs) / 2, 2 * max(lrs), count)
        return tuple(TunedSetting(rounded_lr(lr), unguided) for lr in between)
    return tuple(TunedSetting(lr, scale) for scale in scales for lr in lrs)
