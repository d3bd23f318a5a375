"""The gradient of a step: w(t) times the direction of the method, transformed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.own_results import check_own_tensor
from limbeck.distillation.surrogate import surrogate
from limbeck.methods.base import LatentAndImageGradient, Method
from limbeck.training.experiment import Experiment
from limbeck.training.own_results import check_own_direction


@dataclass(frozen=True)
class StepGradient:
    """What the particles descend in one step.

    Attributes:
        direction: what the method returned.
        weight: w(t) of each row.
        x0: w(t) times the direction, after the gradient transform.
        image: the same for images in pixels, where the method has a part for them.
    """

    direction: Tensor | LatentAndImageGradient
    weight: Float[Tensor, "b"]
    x0: Float[Tensor, "b ..."]
    image: Float[Tensor, "b 3 h w"] | None


def gradient_of_step(
    experiment: Experiment,
    prior: Prior,
    method: Method[Any],
    inputs: StepInputs,
    state: Any,
    known: Bool[Tensor, "b"] | None = None,
) -> StepGradient:
    """Ask the method for a direction, then weight and transform it.

    Args:
        experiment: the options of the run.
        prior: the model.
        method: the method, with its numbers of the step.
        inputs: what was drawn for the step, with the refined noise.
        state: state of the method.
        known: rows whose view the model was given, which get no gradient; None if there are none.
    """
    direction = method(prior, inputs, state)
    check_own_direction(method, direction, inputs.x0, inputs.image)
    weight = experiment.weight(prior.schedule, inputs.t)
    shape = (len(inputs.x0),)
    check_own_tensor(experiment.weight, "", weight, shape, "a weight for each row")
    if known is not None:
        weight = weight.masked_fill(to_device(known, weight.device), 0.0)
    x0, image = weighted_gradient(experiment, inputs.step, direction, weight)
    return StepGradient(direction, weight, x0, image)


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


def surrogates(
    gradient: StepGradient, inputs: StepInputs, sample: Int[Tensor, "b"]
) -> list[Float[Tensor, ""]]:
    """Return scalars whose gradient in x0, and in the images if it has that part, is this one.

    Args:
        gradient: the gradient of the step.
        inputs: what it was computed from.
        sample: the sample of each row, over whose rows the gradient is averaged.
    """
    losses = [surrogate(inputs.x0, gradient.x0, sample)]
    if gradient.image is not None and inputs.image is not None:
        losses.append(surrogate(inputs.image, gradient.image, sample))
    return losses


def computed_values(
    gradient: StepGradient, regularizers: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What a step has computed, to say which of it is not finite.

    Args:
        gradient: the gradient of the step.
        regularizers: losses of the representation by name.
    """
    direction = gradient.direction
    values = {"weight": gradient.weight, "gradient": gradient.x0}
    if isinstance(direction, LatentAndImageGradient):
        values |= {"direction": direction.x0, "image_direction": direction.image}
    else:
        values["direction"] = direction
    if regularizers:
        values["losses"] = torch.stack([loss.detach() for loss in regularizers.values()])
    return values
