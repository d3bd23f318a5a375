"""A painted ball: the simplest 3D representation, rendered in closed form, to test 3D assets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.geometry.assets import Splats, Surface
from limbeck.representations.base import Render, RepresentationConfig
from limbeck.representations.particle_parameters import ParticleParameters

RADIUS = 0.8


def paint(
    points: Float[Tensor, "n 3"], tint: Float[Tensor, "3"] | float = 0.0
) -> Float[Tensor, "n 3"]:
    """Smooth colors in [.05, .95]: red grows towards +z (front), green towards +x, blue upwards."""
    return (0.5 + 0.45 / RADIUS * points[:, [2, 0, 1]] + tint).clamp(0, 1)


def ball(
    subdivisions: int = 3, tint: Float[Tensor, "3"] | float = 0.0, radius: float = RADIUS
) -> Surface:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces).long()
    return Surface(vertices, faces, lambda points: paint(points, tint))


def fine_cloud() -> Splats:
    """Enough flat splats on the surface of the ball that nothing shows through, and small ones."""
    splats = cloud(2500)
    return replace(splats, scales=torch.tensor([0.04, 0.04, 0.005]).repeat(2500, 1))


def cloud(count: int = 400, tint: Float[Tensor, "3"] | float = 0.0) -> Splats:
    """Flat splats on the surface of the ball."""
    rng = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=1)
    means, z = RADIUS * normal, torch.tensor([0.0, 0.0, 1.0])
    # rotates z to the normal
    quats = torch.cat([1 + normal @ z[:, None], torch.linalg.cross(z.expand(count, 3), normal)], 1)
    return Splats(
        means,
        torch.tensor([0.12, 0.12, 0.01]).repeat(count, 1),
        torch.nn.functional.normalize(quats, dim=1),
        torch.full((count,), 0.95),
        paint(means, tint),
    )


class Painted(ParticleParameters):
    """Painted balls with a learned tint."""

    def __init__(self, size: tuple[int, int], particles: int, kind: str):
        super().__init__({"tint": torch.zeros(particles, 3)}, {"tint": 0.02})
        self.size, self.kind = size, kind

    def render(self, request: RenderRequest) -> Render:
        camera = request.camera
        assert camera is not None
        rays, eye = camera.directions(*self.size), camera.eye[:, None, None]
        along = -(rays * eye).sum(-1)
        discriminant = along**2 - (eye**2).sum(-1) + RADIUS**2
        hit = discriminant > 0
        distance = torch.where(hit, along - discriminant.clamp_min(0).sqrt(), 0.0)
        points = eye + rays * distance[..., None]
        tint = self.gather("tint", request.particle)[:, None, None]
        painted = 0.5 + 0.45 / RADIUS * points[..., [2, 0, 1]] + tint
        color = torch.where(hit[..., None], painted, 1.0).clamp(0, 1)
        normal = points / RADIUS * hit[..., None]
        forward = -camera.pose[:, None, None, :3, 2]
        return Render(
            color.permute(0, 3, 1, 2),
            "image",
            hit[:, None].float(),
            (distance * (rays * forward).sum(-1))[:, None],
            normal.permute(0, 3, 1, 2),
        )

    def asset(self, particle: int) -> Surface | Splats:
        tint = self.params["tint"][particle].detach()
        if self.kind == "nothing":
            return Surface(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), paint)
        return ball(2, tint) if self.kind == "surface" else cloud(tint=tint)


@dataclass(frozen=True)
class Ball(RepresentationConfig):
    """A painted ball.

    Attributes:
        kind: its 3D asset: surface, splats or nothing.
    """

    kind: str = "surface"

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Painted:
        return Painted(self.canvas_size(prior), particles, self.kind)
