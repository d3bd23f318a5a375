"""Metrics that every step of a run records."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.distillation.timesteps.base import training_progress
from limbeck.methods.base import LatentAndImageGradient
from limbeck.representations.base import Representation
from limbeck.training.experiment import Experiment
from limbeck.training.step_gradient import StepGradient


def step_metrics(
    representation: Representation, gradient: StepGradient, t: Float[Tensor, "b"]
) -> dict[str, Float[Tensor, ""]]:
    """Return scalars on the device of the run, after the backward pass of a step.

    Args:
        representation: the particles, with the gradients of the step.
        gradient: the gradient of the step.
        t: time of each row.

    Returns:
        ``residual`` and ``gradient``, root mean squares of direction and gradient; ``grad_norm``
        of all parameters; ``weight`` and ``t``, means over the rows.
    """
    direction = gradient.direction
    residual = direction.x0 if isinstance(direction, LatentAndImageGradient) else direction
    grads = [p.grad for p in representation.parameters() if p.grad is not None]
    return {
        "residual": residual.square().mean().sqrt(),
        "gradient": gradient.x0.square().mean().sqrt(),
        "grad_norm": torch.stack(torch._foreach_norm(grads)).norm(),
        "weight": gradient.weight.mean(),
        "t": t.mean(),
    }


def scheduled_options(
    experiment: Experiment, step: int, device: str
) -> dict[str, Float[Tensor, ""]]:
    """Return the numbers of the method that change over the run, as ``method.NAME``.

    Args:
        experiment: the options of the run.
        step: current step, from 0.
        device: where the scalars are to be.
    """
    values = experiment.method.values_at(training_progress(step, experiment.steps))
    # filled on the device: copying a number there would wait for it
    return {f"method.{k}": torch.full((), v, device=device) for k, v in values.items()}
