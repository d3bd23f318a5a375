"""Times that a method takes."""

from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.methods.base import Method


def times_for(method: Method) -> Timesteps:
    """Uniform times, the same for all rows of a step where the method asks for that."""
    return UniformTimesteps(per_row=not method.needs_shared_times)
