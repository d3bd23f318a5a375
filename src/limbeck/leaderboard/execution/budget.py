"""Network passes, by which the cost of different methods is made equal."""

from __future__ import annotations

from limbeck.diffusion.prior import Prior
from limbeck.system.notices import notify
from limbeck.training.network_calls import NetworkCalls

_BACKWARD_PASSES = 2  #: A backward pass costs about two forward passes.


def network_passes(prior: Prior) -> int:
    """Network passes so far: a row is one, a row with a gradient three."""
    counter = prior.call_counter
    return counter.rows + _BACKWARD_PASSES * counter.grad_rows


def passes_per_step(name: str, calls: NetworkCalls) -> float:
    """Most network passes of a step, at least one; gives a notice if there are none.

    Args:
        name: the method.
        calls: network calls of its steps.
    """
    passes = calls.rows[1] + (1 + _BACKWARD_PASSES) * calls.grad_rows[1]
    if not passes:
        notify(
            f"a step of {name} never calls the network, so that it cannot be compared at equal "
            "passes: each of its steps counts as one pass there"
        )
    return max(passes, 1)


def affordable_steps(name: str, passes: int, per_step: float) -> int:
    """How many steps have a number of passes.

    Args:
        name: the method, for the message.
        passes: network passes of each particle.
        per_step: network passes of a step.

    Raises:
        ValueError: if not even one step has so few passes.
    """
    if per_step > passes:
        raise ValueError(
            f"a step of {name} takes {per_step:g} network passes, more than the {passes} there "
            "are: raise --passes"
        )
    return round(passes / per_step)
