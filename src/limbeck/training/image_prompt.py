"""The image of a run as the image prompt of a model that reads one beside the prompt."""

from __future__ import annotations

from dataclasses import replace

import torch

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import ImagePromptPrior, Prior
from limbeck.representations.base import Render
from limbeck.training.reference_view import ReferenceView


def check_image_prompt(prior: Prior, reference: ReferenceView | None) -> None:
    """Check that a model that reads an image has one which it understands.

    Args:
        prior: the model of the run, whose rows have cameras.
        reference: the image of the run; None if there is none.

    Raises:
        ValueError: if there is none, or it does not show the front.
    """
    if not isinstance(prior, ImagePromptPrior):
        return
    if reference is None:
        raise ValueError(
            "this model reads an image of the object beside the prompt: give one with --image FILE"
        )
    azimuth = reference.options.camera[0]
    if azimuth:
        raise ValueError(
            f"reference.camera has the azimuth {azimuth:g}, but this model takes the view of the "
            "image for the front: leave the azimuth at 0"
        )


@torch.no_grad()
def with_image_prompt(
    conditions: Conditions, prior: Prior, reference: ReferenceView | None, render: Render
) -> Conditions:
    """Return the conditions of rows with the image beside the prompt, if the model reads one.

    The object stands on the mean color of the backgrounds of the group, without which the model
    sees two backgrounds.

    Args:
        conditions: conditions of the rows.
        prior: the model.
        reference: the image of the run; None if there is none.
        render: the renders of the rows.
    """
    if reference is None or not isinstance(prior, ImagePromptPrior):
        return conditions
    images, size = reference.images.at(*prior.image_size), prior.group_size
    groups = len(render.image) // size
    background = render.image.new_ones(groups, 3, 1, 1)
    if render.background is not None:
        of_groups = render.background.unflatten(0, (groups, size))
        background = of_groups.mean((1, 3, 4))[:, :, None, None]
    shown = prior.encode_image_prompt(images.color + (1 - images.mask) * background)
    pos = replace(conditions.pos, image_prompt=shown.repeat_interleave(size, 0))
    return replace(conditions, pos=pos)
