"""Components in a file of one's own."""

from __future__ import annotations

OWN_METHOD = '''
from dataclasses import dataclass
from limbeck.methods.base import StatelessMethod

@dataclass(frozen=True)
class Mine(StatelessMethod):
    """Pull to gray.

    Attributes:
        pull: strength of the gradient.
    """

    pull: float = 0.5

    def __call__(self, prior, inputs, state):
        return self.pull * inputs.x0.detach()
'''
