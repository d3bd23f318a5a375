"""Depths and normals of renders as the images that ControlNets were trained on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera

_MIN_ALPHA = 0.5  #: opacity above which a pixel shows the object
#: Gray of the farthest point, which tells it from the background. Estimated depths have no such
#: gap, but there the background is a scene.
_FARTHEST = 0.2


def depth_image(
    depth: Float[Tensor, "b 1 h w"], alpha: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """Depths as an image: the nearest point white, the background black.

    Gray is linear in disparity, 1 / depth, as in the depths that MiDaS estimates, from the farthest
    point of the object to the nearest one of each image.

    Args:
        depth: depths along the axis of the camera.
        alpha: opacity; pixels of at most 0.5 are background.
    """
    disparity = 1 / depth.clamp_min(1e-6)
    on_object = (alpha > _MIN_ALPHA) & (depth > 0)
    largest = torch.where(on_object, disparity, 0.0).amax((1, 2, 3), keepdim=True)
    smallest = torch.where(on_object, disparity, torch.inf).amin((1, 2, 3), keepdim=True)
    span = largest - smallest
    # a flat object facing the camera has one depth, which is the nearest
    nearness = torch.where(span > 0, (disparity - smallest) / span, 1.0)
    gray = _FARTHEST + (1 - _FARTHEST) * nearness
    return torch.where(on_object, gray, 0.0).expand(-1, 3, -1, -1)


def normal_image(
    normal: Float[Tensor, "b 3 h w"], alpha: Float[Tensor, "b 1 h w"], camera: Camera
) -> Float[Tensor, "b 3 h w"]:
    """Normals in camera space as colors; the background faces the camera.

    Red is left, green is up, blue is towards the camera, each from 0 (away) to 1, as in the images
    of ControlNet 1.1 for Stable Diffusion. That of 1.0 was trained on other colors.

    Args:
        normal: unit normals in world space.
        alpha: opacity; pixels of at most 0.5 are background.
        camera: camera of each row.
    """
    rotation = camera.pose[:, :3, :3].to(normal)
    right, up, towards = torch.einsum("bji,bjhw->ibhw", rotation, normal)
    facing = normal.new_tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    colors = torch.where(alpha > _MIN_ALPHA, torch.stack([-right, up, towards], 1), facing)
    return (colors.clamp(-1, 1) + 1) / 2
