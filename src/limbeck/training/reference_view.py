"""The reference of a run: its camera, its render and its losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render
from limbeck.system.notices import notify
from limbeck.training.experiment import Experiment
from limbeck.training.reference import ImageReference
from limbeck.training.reference_images import ObjectImages
from limbeck.training.reference_losses import (
    color_loss,
    correlation_loss,
    mask_loss,
    normal_loss,
    scale_shift_loss,
)

_CHECK_SIZE = (8, 8)  #: pixels of the render with which a reference is tried out


@dataclass(frozen=True)
class ReferenceView:
    """The image that all particles of a run reproduce.

    Attributes:
        options: weights of the losses.
        images: the object, on the device of the run.
        camera: its camera.
    """

    options: ImageReference
    images: ObjectImages
    camera: Camera

    def request(self, particle: Int[Tensor, "b"], progress: float, views: Render) -> RenderRequest:
        """Return the request for the reference view of particles, unlit.

        Args:
            particle: the particles of the step, of which each is rendered once.
            progress: fraction of the run.
            views: the other views of the step, whose resolution it has or a multiple of it.
        """
        particle = particle.unique()
        height, width = (views.image if views.alpha is None else views.alpha).shape[2:]
        scale = self.options.resolution_scale
        camera = self.camera[torch.zeros(len(particle), dtype=torch.long)]
        size = (height * scale, width * scale)
        has_normals = self.options.normal_weight > 0 and self.images.normal is not None
        return RenderRequest(particle, camera, None, progress, size, has_normals)

    def check(self, views: Render, render: Callable[[RenderRequest], Render]) -> None:
        """Check that a representation can be compared with the reference.

        Args:
            views: a render.
            render: renders the particles.

        Raises:
            ValueError: if it renders latents, or lacks what a loss compares.
        """
        if views.space != "image":
            raise ValueError(
                "a reference is compared with images, but this representation renders latents: use "
                "--representation.space image"
            )
        request = self.request(torch.zeros(1, dtype=torch.long), 0.0, views)
        self.losses(render(replace(request, size=_CHECK_SIZE)))

    def losses(self, render: Render) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted losses by name, summed over the particles.

        Args:
            render: what ``request`` asked for.

        Raises:
            ValueError: if the render lacks what a loss compares.
        """
        o, image = self.options, render.image
        images = self.images.at(*image.shape[2:])
        found: dict[str, Tensor] = {}
        if render.alpha is None:
            raise ValueError("a reference needs the opacity of the render: use a 3D representation")
        if o.color_weight:
            background = render.background
            # without a background of its own, only the object is compared
            background = image if background is None else background
            value = color_loss(image, background, images.color, images.mask)
            found["color"] = o.color_weight * value
        if o.mask_weight:
            found["mask"] = o.mask_weight * mask_loss(render.alpha, images.mask)
        weight = images.mask * render.alpha.detach()
        if o.depth_weight and images.depth is not None:
            found["depth"] = o.depth_weight * self._depth_loss(render, images.depth, images, weight)
        if o.normal_weight and images.normal is not None:
            normal = self._camera_normal(render)
            found["normal"] = o.normal_weight * normal_loss(normal, images.normal, weight)
        return {f"reference_{name}": value.sum() for name, value in found.items()}

    def _depth_loss(
        self, render: Render, depth: Tensor, images: ObjectImages, weight: Tensor
    ) -> Float[Tensor, "b"]:
        if render.depth is None:
            raise ValueError("reference.depth_weight needs the depth of the render, which has none")
        value = render.depth
        if self.options.depth_kind == "disparity":
            value = 1 / value.clamp_min(1e-3)
        target = depth / images.mask.clamp_min(1e-6)
        loss = scale_shift_loss if self.options.depth_loss == "scale-shift" else correlation_loss
        return loss(value, target, weight)

    def _camera_normal(self, render: Render) -> Float[Tensor, "b 3 h w"]:
        """The normals of a render in the space of the camera."""
        if render.normal is None or not render.normal.requires_grad:
            raise ValueError(
                "reference.normal_weight: the normals of this representation are not optimized; "
                "leave it out"
            )
        rotation = to_device(self.camera.pose[:, :3, :3], render.normal.device)[0]
        return torch.einsum("ji,bjhw->bihw", rotation, render.normal)


def read_reference_view(experiment: Experiment, device: str) -> ReferenceView | None:
    """Read the reference of an experiment; None if it has none.

    Args:
        experiment: the options of the run.
        device: device of the run.

    Raises:
        ValueError: if a file cannot be read or used, or a loss has no effect.
    """
    options, representation = experiment.reference, experiment.representation
    images = options.read_images()
    if images is None:
        return None
    options.check_effect_on(representation)
    if options.mask_weight and not representation.optimizes_shape:
        notify(
            f"reference.mask_weight {options.mask_weight:g} changes nothing here, where the "
            f"representation {component_name(type(representation))} does not optimize its shape: "
            "its loss is only recorded"
        )
    if options.color_weight and not representation.shows_color:
        notify(
            f"reference.color_weight {options.color_weight:g} is not used here, where renders of "
            f"the representation {component_name(type(representation))} show no colors"
        )
        options = replace(options, color_weight=0.0)
    camera = options.camera_among(experiment.camera_sampler)
    return ReferenceView(options, images.to(device), camera)
