"""Groups of views of which one is the image of the object itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import KnownViewPrior, Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.camera import Camera, look_at, unit_direction
from limbeck.representations.base import Render
from limbeck.system.random import RowRandom
from limbeck.training.reference import ImageReference
from limbeck.training.reference_view import ReferenceView


@dataclass(frozen=True)
class KnownView:
    """The image of a run as the first view of a share of the groups.

    The model is given it clean beside the noised views of its group, which then follow it. As in
    the training of such a model, the cameras of the group are that of the image, turned around the
    object. The row of the image has no gradient: the reference compares its view already.

    Attributes:
        reference: the image and its camera.
        views: views in a group.
    """

    reference: ReferenceView
    views: int

    def place(self, camera: Camera, rng: RowRandom) -> tuple[Camera, Bool[Tensor, "b"]]:
        """Choose the groups of a step that have the image, and place their cameras.

        Args:
            camera: camera of each row.
            rng: random numbers of the rows.

        Returns:
            The cameras, those of the chosen groups replaced, and the rows that show the image.
        """
        chosen = rng.per_group.uniform("known view") < self.reference.options.group_prob
        number = rng.view % self.views
        found, zeros = self.reference.camera, torch.zeros_like(camera.fov)
        direction = unit_direction(
            found.azimuth + number * (2 * math.pi / self.views), found.elevation + zeros
        )
        turned = look_at(direction * found.distance, torch.zeros_like(direction), found.fov + zeros)
        placed = Camera(
            torch.where(chosen[:, None, None], turned.pose, camera.pose),
            torch.where(chosen, turned.fov, camera.fov),
        )
        return placed, chosen & (number == 0)

    def given(
        self,
        conditions: Conditions,
        known: Bool[Tensor, "b"],
        render: Render,
        encode: Callable[[Float[Tensor, "k 3 h w"]], Float[Tensor, "k c y x"]],
    ) -> Conditions:
        """Return the conditions of a step with the latents of the image.

        The object is put on the background that its row has in the render, so that the views of a
        group agree about it.

        Args:
            conditions: conditions of the rows.
            known: rows that show the image, on the CPU.
            render: renders of the rows.
            encode: the encoder of the model.
        """
        if not known.any():
            return conditions
        rows = to_device(known.nonzero()[:, 0], render.image.device)
        images = self.reference.images.at(*render.image.shape[2:])
        background = torch.ones_like(render.image[rows])
        if render.background is not None:
            background = render.background[rows].detach()
        with torch.no_grad():
            latents = encode(images.color + (1 - images.mask) * background)
        image = latents.new_zeros(len(known), *latents.shape[1:]).index_copy(0, rows, latents)
        return conditions.with_known_views(image, to_device(known, image.device))


def known_view_of(prior: Prior, reference: ReferenceView | None) -> KnownView | None:
    """Return the image of a run as a view of its groups; None if the model is not given it.

    Args:
        prior: the model of the run.
        reference: the image of the run; None if there is none.

    Raises:
        ValueError: if the option is set for a model that was not trained so.
    """
    if isinstance(prior, KnownViewPrior) and prior.takes_known_views:
        if reference is None or not reference.options.group_prob:
            return None
        return KnownView(reference, prior.group_size)
    default = ImageReference.__dataclass_fields__["group_prob"].default
    if reference is not None and reference.options.group_prob != default:
        raise ValueError(
            f"reference.group_prob {reference.options.group_prob} has no effect, because this "
            "model was not trained to be given a view: leave it out"
        )
    return None
