"""What one training step has drawn, computed and measured."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.distillation.inputs import StepInputs


@dataclass(frozen=True)
class Step:
    """Result of one training step.

    Attributes:
        step: number of steps done, this one included.
        inputs: what was drawn for the step, with the refined noise.
        gradient: w(t) times the direction, after the gradient transform; shape of x0.
        metrics: scalars by name, still on the device.
    """

    step: int
    inputs: StepInputs
    gradient: Float[Tensor, "b ..."]
    metrics: dict[str, Tensor]
