"""A representation of your own: images of low rank.

limbeck run "a red mug" --representation examples/own_representation.py:LowRank
"""

from dataclasses import dataclass

from limbeck.representations.base import Render, RepresentationConfig
from limbeck.representations.particle_parameters import ParticleParameters
from limbeck.system.random import RowRandom


class LowRankImages(ParticleParameters):
    """image = sigmoid(columns @ rows), channel by channel."""

    def render(self, request):
        columns, rows = (self.gather(name, request.particle) for name in ("columns", "rows"))
        return Render((columns @ rows).sigmoid(), "image")


@dataclass(frozen=True)
class LowRank(RepresentationConfig):
    """Images whose channels are matrices of low rank before a sigmoid.

    Attributes:
        rank: rank of each channel.
        lr: peak learning rate.
    """

    rank: int = 8
    lr: float = 0.05

    def build(self, prior, particles, seed):
        rng, (h, w) = RowRandom.initial(seed, particles), self.canvas_size(prior)
        shapes = {"columns": (3, h, self.rank), "rows": (3, self.rank, w)}
        start = {k: 0.5 * rng.normal(k, *s) for k, s in shapes.items()}
        return LowRankImages(start, dict.fromkeys(start, self.lr)).to(prior.device)
