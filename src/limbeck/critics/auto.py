"""The default critic: adapters where the prior has a network, the exact critic where it has none."""

from __future__ import annotations

from dataclasses import dataclass, field

from limbeck.critic import Critic, CriticSpec, Learning
from limbeck.critics.exact import Exact
from limbeck.critics.lowrank import LowRank
from limbeck.method import Start
from limbeck.prior import Prior
from limbeck.priors.adapters import Networked


@dataclass(frozen=True)
class Auto(CriticSpec):
    """``LowRank`` on a network, ``Exact`` on an exact prior, so that one command runs on every model.

    rank: of the adapters. learning: how they are trained.
    """

    rank: int = 8
    learning: Learning = field(default_factory=Learning)

    def __post_init__(self) -> None:
        LowRank(self.rank, self.learning)  # the same bounds

    def build(self, prior: Prior, start: Start) -> Critic:
        spec = LowRank(self.rank, self.learning) if isinstance(prior, Networked) else Exact()
        return spec.build(prior, start)
