"""The gradient of a step: w(t) times the direction of the method, transformed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.tensors import expand
from limbeck.distillation.own_results import check_own_tensor
from limbeck.methods.base import LatentAndImageGradient
from limbeck.training.experiment import Experiment


def weighted_gradient(
    experiment: Experiment,
    step: int,
    direction: Tensor | LatentAndImageGradient,
    weight: Float[Tensor, "b"],
) -> tuple[Tensor, Tensor | None]:
    """Transform w(t) times the direction, in x0 space and, if the method says so, image space.

    The transform sees both parts of a row as one vector, which keeps their proportion.

    Args:
        experiment: the options of the run.
        step: current step, from 0.
        direction: what the method returned.
        weight: w(t) of each row.
    """
    e = experiment

    def transform(gradient: Tensor) -> Tensor:
        changed = e.grad_transform(gradient, step=step, steps=e.steps)
        shape = gradient.shape
        check_own_tensor(e.grad_transform, "", changed, shape, "the shape of the gradient")
        return changed

    if not isinstance(direction, LatentAndImageGradient):
        return transform(expand(weight, direction) * direction), None
    parts = [expand(weight, part) * part for part in (direction.x0, direction.image)]
    joint = transform(torch.cat([part.flatten(1) for part in parts], 1))
    x0, image = joint.split([part[0].numel() for part in parts], 1)
    return x0.view_as(direction.x0), image.view_as(direction.image)
