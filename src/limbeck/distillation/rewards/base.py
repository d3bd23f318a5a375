"""Which of several pictures is the better one: a number per row, by which a method may weigh them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.state import Stateless

#: x0 ``[n, ...]``, what each row is told, and its particle ``[n]``, to a score ``[n]``; called without a graph
RewardFunction = Callable[
    [Float[Tensor, "n ..."], Conditions, Int[Tensor, "n"]], Float[Tensor, "n"]
]


@dataclass(frozen=True)
class Reward(abc.ABC):
    """The options of a score. Higher is better; only differences count."""

    @abc.abstractmethod
    def build(self, prior: Prior, start: SetupContext) -> RewardFunction:
        """The score of x0 of this prior; ValueError where it cannot judge them."""


class RewardState(Stateless):
    """The state of a method that scores: a score, and nothing that changes."""

    def __init__(self, score: RewardFunction):
        self.reward_fn = score


WeightingScheme = Literal["minmax", "bestworst", "best", "softmax"]
#: how many of the best share which weight, and how many of the worst which
_RANK_WEIGHTS = {
    "minmax": (2, 0.9, 2, -0.1),
    "bestworst": (1, 0.9, 1, -0.1),
    "best": (1, 1.0, 0, 0.0),
}


def min_candidates(scheme: WeightingScheme) -> int:
    """The least number of candidates a scheme can weigh."""
    return 1 if scheme == "softmax" else _RANK_WEIGHTS[scheme][0] + _RANK_WEIGHTS[scheme][2]


def candidate_weights(scheme: WeightingScheme, score: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
    """What each of n candidates counts, column by column, by its score; no number where one of the scores is none."""
    if scheme == "softmax":
        return score.softmax(0)
    best, plus, worst, minus = _RANK_WEIGHTS[scheme]
    by_rank = (
        [plus / best] * best + [0.0] * (len(score) - best - worst) + [minus / max(worst, 1)] * worst
    )
    ranked = to_device(torch.tensor(by_rank, dtype=score.dtype), score.device)[:, None].expand_as(
        score
    )
    out = torch.zeros_like(score).scatter_(
        0, score.argsort(stable=True, dim=0, descending=True), ranked
    )
    return torch.where(score.isnan().any(0), score.sum(0), out)
