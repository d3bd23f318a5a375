"""What a run is judged by: the same 32 cameras for all, what is seen through them, and the shape alone without its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import Camera, orbit_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation

#: elevation, cameras once around, azimuth of the first, in degrees; no azimuth lies on the border of two sides. The first ring is
#: that of DreamFusion's Table 1, the last one looks from overhead
RINGS = ((30.0, 16, 11.25), (10.0, 12, 0.0), (66.0, 4, 0.0))
RETRIEVED = slice(0, RINGS[0][1])  #: the cameras of R-Precision
LAMP = (
    -0.45,
    0.75,
    0.55,
)  #: the world's: upper left of the camera and behind it, in units of right, up and back
AMBIENT, DIFFUSE, WHITE = 0.42, 0.62, 0.95  #: its light, and the world's white
SKY = (
    (0.35, 0.56, 0.92),
    (0.72, 0.84, 0.98),
)  #: top and bottom of the world's sky, before which nothing is mistaken for white


def held_out_cameras(distance: float, fov: float) -> Camera:
    """The 32 cameras, at one distance and with one vertical field of view in degrees."""
    parts = []
    for elevation, count, first in RINGS:
        azimuth = (torch.arange(count) * (360 / count) + first) * (math.pi / 180)
        parts.append(
            orbit_cameras(azimuth, torch.full_like(azimuth, math.radians(elevation)), distance, fov)
        )
    return Camera(torch.cat([part.pose for part in parts]), torch.cat([part.fov for part in parts]))


def textureless(
    alpha: Float[Tensor, "b 1 y x"], normal: Float[Tensor, "b 3 y x"], camera: Camera
) -> Float[Tensor, "b 3 y x"]:
    """White things of these normals under the world's lamp, which goes with the camera, before its sky; images in [0, 1].

    The lamp is the world's because its evaluator knows no other: under one at the camera itself it names half as many of the true
    objects. Normals of any length count by their direction.
    """
    turn = camera.pose[:, :3, :3].to(normal)
    towards = torch.nn.functional.normalize(turn @ torch.tensor(LAMP).to(normal), dim=1)
    facing = (
        (torch.nn.functional.normalize(normal, dim=1) * towards[:, :, None, None])
        .sum(1, keepdim=True)
        .clamp_min(0)
    )
    white = WHITE * (AMBIENT + DIFFUSE * facing).clamp_max(1)
    top, bottom = (torch.tensor(rgb).to(normal)[:, None, None] for rgb in SKY)
    down = ((torch.arange(alpha.shape[2]) + 0.5) / alpha.shape[2]).to(normal)[:, None]
    return alpha * white + (1 - alpha) * torch.lerp(top, bottom, down)


@dataclass(frozen=True)
class HeldOutImages:
    """Pictures of one particle, one per camera: in colour and, where it has normals, of the shape alone; on the CPU."""

    images: Float[Tensor, "b 3 h w"]
    shapes: Float[Tensor, "b 3 y x"] | None


@torch.no_grad()
def render_held_out(
    representation: Representation, prior: Prior, particle: int, camera: Camera, chunk: int = 8
) -> HeldOutImages:
    """A particle through cameras, ``chunk`` at a time."""
    images, shapes = [], []
    for rows in torch.arange(len(camera)).split(chunk):
        part = camera[rows]
        render = representation.render(RenderRequest(torch.full((len(rows),), particle), part))
        images.append(pictured(render, prior).cpu())
        if render.alpha is not None and render.normal is not None:
            shapes.append(textureless(render.alpha, render.normal, part).float().cpu())
    return HeldOutImages(torch.cat(images), torch.cat(shapes) if shapes else None)


def pictured(render: Render, prior: Prior) -> Float[Tensor, "b 3 h w"]:
    """A render as images in [0, 1], where it was made."""
    return (
        (render.image if render.space == "image" else prior.decode(render.image))
        .detach()
        .float()
        .clamp(0, 1)
    )
