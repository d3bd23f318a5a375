"""Control images of the renders of a step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import ControlledPrior, Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.rendering.control_images import depth_image, normal_image
from limbeck.graphics.rendering.gaussian_projection import depth_to_normals
from limbeck.representations.base import Render


@torch.no_grad()
def control_of_render(
    prior: Prior, render: Render, camera: Camera | None
) -> Float[Tensor, "b 3 y x"] | None:
    """Return the control image of each row, without gradients; None if the prior needs none.

    Args:
        prior: the model.
        render: what it sees.
        camera: camera of each row; None for 2D representations.

    Raises:
        ValueError: if the render does not have what the prior is controlled by.
    """
    kind = prior.control_kind if isinstance(prior, ControlledPrior) else None
    if kind is None:
        return None
    if camera is None or render.depth is None or render.alpha is None:
        raise ValueError(
            f"the ControlNet is controlled by the {kind} of renders, and this representation has "
            "none: give its image with --model.control-image FILE"
        )
    if kind == "depth":
        return depth_image(render.depth, render.alpha)
    device = render.depth.device
    camera = Camera(to_device(camera.pose, device), to_device(camera.fov, device))
    normal = render.normal
    if normal is None:  # of fields, which need them for few shadings only
        normal = depth_to_normals(render.depth, render.alpha, camera)
    return normal_image(normal, render.alpha, camera)
