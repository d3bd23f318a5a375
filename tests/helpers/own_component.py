"""A component in a file of one's own."""

from __future__ import annotations

from limbeck.distillation.weights import UniformWeight as UniformWeight

MINE = '''
from dataclasses import dataclass
from limbeck.methods.base import StatelessMethod

@dataclass(frozen=True)
class Mine(StatelessMethod):
    """Pull to grey. pull: how hard."""

    pull: float = 0.5

    def __call__(self, prior, sample, state):
        return self.pull * sample.x0.detach()
'''
