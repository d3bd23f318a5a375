"""Checks of what a method and a representation of one's own return and do in a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from limbeck.config.discovery import is_own, name_of
from limbeck.diffusion.prior import Prior
from limbeck.distillation.own_results import check_own_tensor, result_error
from limbeck.methods.base import LatentAndImageGradient
from limbeck.representations.base import Render, Representation
from limbeck.training.experiment import Experiment

_IDLE_STEPS = 10  #: without a network call, after which a method is said to make none


def check_own_direction(method: object, direction: Any, x0: Tensor, image: Tensor | None) -> None:
    """Check the direction of a method of one's own.

    Args:
        method: the method; nothing is checked if it is one of Limbeck.
        direction: what it returned.
        x0: x0 of the step.
        image: images of the step; None if latents are optimized.

    Raises:
        ValueError: if the direction does not have the shape of x0, or its image part that of the
            images.
    """
    if isinstance(direction, LatentAndImageGradient):
        if image is not None:
            check_own_tensor(method, "", direction.image, image.shape, "the shape of inputs.image")
        direction = direction.x0
    check_own_tensor(method, "", direction, x0.shape, "the shape of inputs.x0")


def check_own_render(representation: Representation, render: Any, rows: int, prior: Prior) -> None:
    """Check the renders of a representation of one's own.

    Args:
        representation: the representation; nothing is checked if it is one of Limbeck.
        render: what it returned.
        rows: number of rows that were asked for.
        prior: the model, which decides the shape of latents.

    Raises:
        ValueError: if it is no ``Render``, has another shape, or does not depend on parameters.
    """
    if not is_own(type(representation)):
        return
    if not isinstance(render, Render):
        wanted = "limbeck.representations.base.Render(image, 'image' or 'latent')"
        raise result_error(representation, ".render", render, wanted)
    if render.space not in ("image", "latent"):
        raise result_error(
            representation, ".render", render.space, "a Render whose space is image or latent"
        )
    if render.space == "image":
        size = render.image.shape[2:] if isinstance(render.image, Tensor) else prior.image_size
        shape, meaning = (rows, 3, *size), "images in [0, 1], one for each row of the request"
    else:
        free = prior.size_multiple and isinstance(render.image, Tensor)
        tail = render.image.shape[2:] if free and render.image.ndim == 4 else prior.shape[1:]
        shape, meaning = (rows, prior.shape[0], *tail), "latents, one for each row of the request"
    check_own_tensor(representation, ".render", render.image, shape, meaning)
    if torch.is_grad_enabled() and not render.image.requires_grad:
        raise ValueError(
            f"{name_of(type(representation))}.render returned an image without gradient: compute "
            "it from the parameters that param_groups returns, without detach, numpy or no_grad"
        )


def check_own_groups(representation: Representation, groups: Any) -> Any:
    """Check the parameter groups of a representation of one's own.

    Args:
        representation: the representation; nothing is checked if it is one of Limbeck.
        groups: what ``param_groups`` returned.

    Returns:
        The groups, as a list if they were checked.

    Raises:
        ValueError: if they are not dicts with parameters and a learning rate, at least one.
    """
    if not is_own(type(representation)):
        return groups
    wanted = "at least one dict such as {'params': [self.particles], 'lr': 0.03}"
    if not isinstance(groups, Iterable):
        raise result_error(representation, ".param_groups", groups, wanted)
    found = list(groups)
    bad = [g for g in found if not (isinstance(g, dict) and "params" in g and "lr" in g)]
    if bad or not found:
        value = bad[0] if bad else found
        raise result_error(representation, ".param_groups", value, wanted)
    return [group | {"params": list(group["params"])} for group in found]


def own_origins(experiment: Experiment, representation: Representation) -> dict[str, str]:
    """Components of one's own by the tensor of a step that is from them, as FILE.py:Class.

    Args:
        experiment: the options of the run.
        representation: its particles.
    """
    e = experiment
    parts: dict[str, object] = {
        "x0": representation,
        "eps": e.noise_of_run,
        "direction": e.method,
        "image_direction": e.method,
        "weight": e.weight,
        "gradient": e.grad_transform,
        "losses": representation,
    }
    return {name: name_of(type(part)) for name, part in parts.items() if is_own(type(part))}


class IdleMethod:
    """Whether a method of one's own calls the network at all.

    Args:
        method: the method; those of Limbeck are not watched.
        steps: steps of the run.
    """

    def __init__(self, method: object, steps: int):
        self._name = name_of(type(method))
        self._limit = min(_IDLE_STEPS, steps) if is_own(type(method)) else 0
        self._idle = 0

    def update(self, calls: int) -> str:
        """Note a step.

        Args:
            calls: network calls of the step.

        Returns:
            What to say, once; else an empty text.
        """
        self._idle += 1
        if calls:
            self._limit = 0
        if self._idle != self._limit:
            return ""
        return (
            f"the method {self._name} has not called the network in {self._idle} steps, so that "
            "neither model nor prompt has an effect: call prior or guided_prediction in it"
        )
