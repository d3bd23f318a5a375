"""A weight of your own: limbeck run "a red mug" --weight examples/own_weight.py:AlphaWeight."""

from dataclasses import dataclass

from limbeck.distillation.weights import Weight


@dataclass(frozen=True)
class AlphaWeight(Weight):
    """w(t) = alpha(t)^power, which is 1 at t = 0 and falls to 0 at t = 1.

    Attributes:
        power: exponent of alpha.
    """

    power: float = 2.0

    def __call__(self, schedule, t):
        return schedule.alpha(t) ** self.power
