"""The 32 held-out cameras of all 3D evaluations, and renders with and without texture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_unit_range
from limbeck.graphics.cameras.camera import Camera, orbit_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation

#: elevation, number of cameras and azimuth of the first, in degrees. No azimuth lies on the border
#: of two views. The first ring is that of DreamFusion's Table 1, the last one is overhead.
CAMERA_RINGS = ((30.0, 16, 11.25), (10.0, 12, 0.0), (66.0, 4, 0.0))
R_PRECISION_VIEWS = slice(0, CAMERA_RINGS[0][1])  #: the cameras of R-Precision
#: towards the light of the world, above left of the camera and behind it, in camera right, up, back
LIGHT_DIRECTION = (-0.45, 0.75, 0.55)
AMBIENT, DIFFUSE = 0.42, 0.62  #: the world's light
_WHITE = 0.95  #: the world's white
#: top and bottom of the world's sky, against which white objects stand out
_SKY = ((0.35, 0.56, 0.92), (0.72, 0.84, 0.98))


def held_out_cameras(distance: float, fov: float) -> Camera:
    """Return the 32 held-out cameras.

    Args:
        distance: distance from the origin.
        fov: vertical field of view in degrees.
    """
    rings = []
    for elevation, count, first in CAMERA_RINGS:
        azimuth = (torch.arange(count) * (360 / count) + first) * (math.pi / 180)
        elevations = torch.full_like(azimuth, math.radians(elevation))
        rings.append(orbit_cameras(azimuth, elevations, distance, fov))
    return Camera(torch.cat([ring.pose for ring in rings]), torch.cat([ring.fov for ring in rings]))


def render_textureless(
    alpha: Float[Tensor, "b 1 y x"], normal: Float[Tensor, "b 3 y x"], camera: Camera
) -> Float[Tensor, "b 3 y x"]:
    """Shade white objects in the world's light, which moves with the camera, before its sky.

    The light is the world's because its evaluator was trained on no other: with a light at the
    camera it recognizes half as many of the true objects.

    Args:
        alpha: opacity.
        normal: normals in world space, of any length.
        camera: the camera of each row.

    Returns:
        Images in [0, 1].
    """
    rotation = camera.pose[:, :3, :3].to(normal)
    light = torch.nn.functional.normalize(
        rotation @ torch.tensor(LIGHT_DIRECTION).to(normal), dim=1
    )
    normal = torch.nn.functional.normalize(normal, dim=1)
    cosine = (normal * light[:, :, None, None]).sum(1, keepdim=True).clamp_min(0)
    white = _WHITE * (AMBIENT + DIFFUSE * cosine).clamp_max(1)
    top, bottom = (torch.tensor(rgb).to(normal)[:, None, None] for rgb in _SKY)
    y = ((torch.arange(alpha.shape[2]) + 0.5) / alpha.shape[2]).to(normal)[:, None]
    return alpha * white + (1 - alpha) * torch.lerp(top, bottom, y)


@dataclass(frozen=True)
class HeldOutImages:
    """Images of one particle on the CPU, one per camera.

    Attributes:
        images: renders in color.
        textureless: white renders of the shape alone; None if the representation has no normals.
        alpha: opacity of each pixel of ``images``; None if the representation has none.
    """

    images: Float[Tensor, "b 3 h w"]
    textureless: Float[Tensor, "b 3 y x"] | None
    alpha: Float[Tensor, "b 1 h w"] | None = None


@torch.no_grad()
def render_held_out(
    representation: Representation, prior: Prior, particle: int, camera: Camera, chunk: int = 8
) -> HeldOutImages:
    """Render a particle through cameras.

    Args:
        representation: the representation.
        prior: decodes renders that are latents.
        particle: index of the particle.
        camera: the cameras.
        chunk: number of cameras per render.
    """
    images, textureless, alphas = [], [], []
    for rows in torch.arange(len(camera)).split(chunk):
        cameras = camera[rows]
        request = RenderRequest(torch.full((len(rows),), particle), cameras)
        render = representation.render(request)
        images.append(to_images(render, prior).cpu())
        if render.alpha is not None:  # of a render of latents it is smaller than the image
            alpha = render.alpha.float().cpu()
            alphas.append(torch.nn.functional.interpolate(alpha, images[-1].shape[2:]))
        if render.alpha is not None and render.normal is not None:
            shaded = render_textureless(render.alpha, render.normal, cameras)
            textureless.append(shaded.float().cpu())
    whole = [torch.cat(parts) if parts else None for parts in (textureless, alphas)]
    return HeldOutImages(torch.cat(images), *whole)


def to_images(render: Render, prior: Prior) -> Float[Tensor, "b 3 h w"]:
    """Return a render as images in [0, 1], on its device."""
    images = render.image if render.space == "image" else prior.decode(render.image)
    return to_unit_range(images.detach().float())
