"""Samples of several views of one object, drawn together."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import (
    FoldablePrior,
    ImagePromptPrior,
    KnownViewPrior,
    MultiViewPrior,
    Prior,
)
from limbeck.diffusion.sampling import Sampling
from limbeck.graphics.cameras.camera import Camera, turntable_cameras
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.system.image_files import read_image

_ELEVATION, _DISTANCE, _FOV = 15.0, 3.6, 40.0  #: the evaluation cameras of a run


def cameras_of_views(views: int) -> Camera:
    """Return the cameras of the views of a sampled object, the first in front of it."""
    return turntable_cameras(views, _ELEVATION, _DISTANCE, _FOV)


def check_views(sampling: Sampling, prior: Prior) -> None:
    """Check that a model can draw the views that are asked for.

    Raises:
        ValueError: if it sees another number of views, cannot see several, or cannot be given one.
    """
    if sampling.views == 1:
        return
    takes_known = isinstance(prior, KnownViewPrior) and prior.takes_known_views
    if isinstance(prior, ImagePromptPrior) and sampling.image is None:
        raise ValueError(
            "this model reads an image of the object beside the prompt: give one with --image FILE"
        )
    if sampling.image is not None and not (takes_known or isinstance(prior, ImagePromptPrior)):
        raise ValueError(
            f"image {sampling.image} needs a model of several views that was trained to be given "
            "one of them (limbeck train-world --multi-view) or reads an image (ImageDream), which "
            "this one was not"
        )
    views = Orbit().prompts_by_view("")
    for prompt in sampling.prompts:
        if named := [view.strip(" ,") for view in views if view.strip(" ,") in prompt.lower()]:
            raise ValueError(
                f'the prompt "{prompt}" names the view "{named[0]}", but --views shows the object '
                "from several: leave the view out"
            )
    if isinstance(prior, MultiViewPrior):
        if prior.group_size != sampling.views:
            raise ValueError(
                f"views must be {prior.group_size}, the number of views that this model sees at "
                f"once, or 1, not {sampling.views}"
            )
    elif not isinstance(prior, FoldablePrior):
        raise ValueError(
            f"views {sampling.views} needs a model that is a U-Net of diffusers, whose "
            f"self-attention can see several images, not {type(prior).__name__}: leave out --views"
        )


def condition_rows(sampling: Sampling) -> Int[Tensor, "n"]:
    """Return which of the conditions each image has."""
    count, views = len(sampling.prompts), sampling.views
    groups = torch.arange(count).repeat_interleave(sampling.num_images // views)
    return (groups[:, None] * views + torch.arange(views)).flatten()


def view_conditions(sampling: Sampling, prior: Prior) -> Conditions:
    """Return the conditions of each view of each prompt.

    A model that takes cameras gets these, any other view words.
    """
    cameras = cameras_of_views(sampling.views)
    count = len(sampling.prompts) * sampling.views
    empty = prior.condition([""] * count)
    null = prior.condition([sampling.negative_prompt] * count).with_image_prompt_of(empty)
    if isinstance(prior, MultiViewPrior):
        prompts = [prompt for prompt in sampling.prompts for _ in range(sampling.views)]
        pose = cameras.pose.repeat(len(sampling.prompts), 1, 1).to(prior.device)
        conditions = Conditions(prior.condition(prompts), null).with_camera(pose)
        return conditions if sampling.image is None else _with_image(conditions, sampling, prior)
    words = Orbit()
    view = words.view_weights(cameras, len(cameras)).argmax(1).tolist()
    prompts = [words.prompts_by_view(prompt)[v] for prompt in sampling.prompts for v in view]
    return Conditions(prior.condition(prompts), null)


def _with_image(conditions: Conditions, sampling: Sampling, prior: Prior) -> Conditions:
    """The conditions with the image as the image prompt, or as the first view, of every object."""
    assert sampling.image is not None
    image = read_image(sampling.image, prior.image_size)[None].to(prior.device)
    if isinstance(prior, ImagePromptPrior):
        shown = prior.encode_image_prompt(image).expand(len(conditions.pos), -1)
        return replace(conditions, pos=replace(conditions.pos, image_prompt=shown))
    latents = prior.encode(image).expand(len(conditions.pos), -1, -1, -1)
    known = torch.arange(len(latents), device=latents.device) % sampling.views == 0
    return conditions.with_known_views(latents, known)


def seen_together(sampling: Sampling, prior: Prior) -> AbstractContextManager[None]:
    """Return the context in which the views of an object are sampled together."""
    if sampling.views == 1 or isinstance(prior, MultiViewPrior):
        return nullcontext()
    assert isinstance(prior, FoldablePrior)
    return prior.fold_views(sampling.views)
