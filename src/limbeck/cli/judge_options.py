"""Options of the networks and scores that judge images, of ``limbeck eval`` and of sweeps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.metrics.clip import CLIPSimilarity
    from limbeck.metrics.image_scores.base import ImageScore


@dataclass(frozen=True)
class JudgeOptions:
    """What judges images besides the world's evaluator.

    Attributes:
        clip: folder or hub id of a CLIPModel with its tokenizer, for CLIP score and CLIP
            R-Precision; sets of images are then compared in its features.
        texts: file of the texts that CLIP R-Precision compares each prompt with, in the formats of
            docs/prompts.md; by default the prompts of all runs or folders and, in 3D, the other
            objects of the world.
        pick_score: folder or hub id of the CLIPModel of PickScore with its tokenizer, such as
            yuvalkirstain/PickScore_v1.
        hps: the same of HPSv2, such as adams-story/HPSv2-hf.
        image_reward: folder or hub id of ImageReward.pt, such as THUDM/ImageReward.
        score: files with scores of images of your own, FILE.py or FILE.py:Class; docs/eval.md has
            an example.
    """

    clip: str | None = None
    texts: Path | None = None
    pick_score: str | None = None
    hps: str | None = None
    image_reward: str | None = None
    score: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.texts is not None and self.clip is None:
            raise ValueError("--texts needs --clip FOLDER")

    def names(self) -> dict[str, str]:
        """What was given as each network: values of two models are not comparable."""
        from limbeck.config.discovery import find
        from limbeck.leaderboard.execution.cell_files import code_digest
        from limbeck.metrics.image_scores.base import ImageScore

        given = {
            "clip": self.clip,
            "pick_score": self.pick_score,
            "hps": self.hps,
            "image_reward": self.image_reward,
        }
        names = {name: model for name, model in given.items() if model is not None}
        # the digest tells versions of a file apart
        own = {f"score {name}": code_digest(find(ImageScore, name))[:16] for name in self.score}
        return names | own

    def load_clip(self, device: str) -> CLIPSimilarity | None:
        """CLIP; None if it is not given."""
        if self.clip is None:
            return None
        from limbeck.metrics.clip import CLIPSimilarity
        from limbeck.priors.loading import pick_device

        return CLIPSimilarity(self.clip, pick_device(device))

    def load_own_scores(self) -> tuple[ImageScore, ...]:
        """The scores of the user's own.

        Raises:
            ValueError: if two have one name, or one has that of another metric.
        """
        own = [_load_own_score(name) for name in self.score]
        for number, score in enumerate(own):
            if score.metric in {other.metric for other in own[:number]}:
                raise ValueError(
                    f"two scores of --score are called {score.metric!r}: give one of the classes "
                    'another name with name = "..."'
                )
        return tuple(own)

    def load_scores(self, device: str) -> tuple[ImageScore, ...]:
        """The scores of single images, those of the user's own first."""
        from limbeck.metrics.image_scores.hps import HPS
        from limbeck.metrics.image_scores.image_reward import ImageReward
        from limbeck.metrics.image_scores.pick_score import PickScore
        from limbeck.priors.loading import pick_device

        given = (
            (PickScore, self.pick_score),
            (HPS, self.hps),
            (ImageReward, self.image_reward),
        )
        models = [kind(model, pick_device(device)) for kind, model in given if model is not None]
        return (*self.load_own_scores(), *models)

    def read_texts(self) -> tuple[str, ...]:
        """The texts that CLIP compares each prompt with; none if no file is given."""
        from limbeck.evaluation.image_sets import read_prompts

        if self.texts is None:
            return ()
        texts = read_prompts(self.texts, "--texts")
        return tuple(texts.values() if isinstance(texts, dict) else texts)


def _load_own_score(name: str) -> ImageScore:
    """A score of the user's own, from its file.

    Raises:
        ValueError: if there is none, or if it has the name of another metric.
    """
    from limbeck.config.discovery import OWN_FILE, find
    from limbeck.metrics.image_scores.base import ImageScore, check_score_bounds
    from limbeck.runs.report.image_metrics import IMAGE_METRICS
    from limbeck.runs.report.tables import SCORES
    from limbeck.sweeps.planned_runs import ExtraOptions
    from limbeck.sweeps.results import OTHER_COLUMNS
    from limbeck.training.experiment import Experiment

    options = (*Experiment.__dataclass_fields__, *ExtraOptions.__dataclass_fields__)
    taken = {*IMAGE_METRICS, *SCORES, *OTHER_COLUMNS, *options}
    if not OWN_FILE.fullmatch(name):
        raise ValueError(f"--score takes FILE.py or FILE.py:Class, not {name!r}")
    score: ImageScore = find(ImageScore, name)()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", score.metric) or score.metric in taken:
        reason = "taken" if score.metric in taken else "not of lowercase letters, digits and _"
        raise ValueError(
            f"the score of {name} is called {score.metric!r}, which is {reason}: give the class "
            'another name with name = "..."'
        )
    check_score_bounds(score)
    return score
