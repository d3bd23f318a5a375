"""A ball that is painted: the smallest thing with sides, rendered by its closed form, to test what is made of solids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.views import CameraSampler, Orbit
from limbeck.graphics.geometry.solids import Splats, Surface
from limbeck.representations.base import ParticleParameters, Render, RepresentationConfig

RADIUS = 0.8


def paint(
    points: Float[Tensor, "n 3"], tint: Float[Tensor, "3"] | float = 0.0
) -> Float[Tensor, "n 3"]:
    """Smooth colours in [.05, .95]: red grows towards the front (+z), green towards +x, blue upwards."""
    return (0.5 + 0.45 / RADIUS * points[:, [2, 0, 1]] + tint).clamp(0, 1)


def ball(
    subdivisions: int = 3, tint: Float[Tensor, "3"] | float = 0.0, radius: float = RADIUS
) -> Surface:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Surface(
        torch.tensor(made.vertices).float(),
        torch.tensor(made.faces).long(),
        lambda points: paint(points, tint),
    )


def cloud(count: int = 400, tint: Float[Tensor, "3"] | float = 0.0) -> Splats:
    """Flat splats on the ball."""
    rng = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=1)
    mean, z = RADIUS * normal, torch.tensor([0.0, 0.0, 1.0])
    turn = torch.cat(
        [1 + normal @ z[:, None], torch.linalg.cross(z.expand(count, 3), normal)], 1
    )  # takes z to the normal
    scale = torch.tensor([0.12, 0.12, 0.01]).repeat(count, 1)
    return Splats(
        mean,
        scale,
        torch.nn.functional.normalize(turn, dim=1),
        torch.full((count,), 0.95),
        paint(mean, tint),
    )


class Painted(ParticleParameters):
    """The ball with a tint that is learned."""

    def __init__(self, size: tuple[int, int], particles: int, kind: str):
        super().__init__({"tint": torch.zeros(particles, 3)}, {"tint": 0.02})
        self.size, self.kind = size, kind

    def render(self, view: RenderRequest) -> Render:
        assert view.camera is not None
        rays, eye = view.camera.directions(*self.size), view.camera.eye[:, None, None]
        along = -(rays * eye).sum(-1)
        under = along**2 - (eye**2).sum(-1) + RADIUS**2
        hit = under > 0
        depth = torch.where(hit, along - under.clamp_min(0).sqrt(), 0.0)
        points = eye + rays * depth[..., None]
        tint = self.gather("tint", view.particle)[:, None, None]
        colour = torch.where(
            hit[..., None], 0.5 + 0.45 / RADIUS * points[..., [2, 0, 1]] + tint, 1.0
        ).clamp(0, 1)
        forward = -view.camera.pose[:, None, None, :3, 2]
        planes = lambda values: values.permute(0, 3, 1, 2)  # noqa: E731
        normal = planes(points / RADIUS * hit[..., None])
        return Render(
            planes(colour),
            "image",
            hit[:, None].float(),
            (depth * (rays * forward).sum(-1))[:, None],
            normal,
        )

    def asset(self, particle: int) -> Surface | Splats:
        tint = self.parts["tint"][particle].detach()
        if self.kind == "nothing":
            return Surface(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), paint)
        return ball(2, tint) if self.kind == "surface" else cloud(tint=tint)


@dataclass(frozen=True)
class Ball(RepresentationConfig):
    """A painted ball. kind: what it is as a solid: surface, splats or nothing."""

    kind: str = "surface"

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Painted:
        return Painted(self.canvas_size(prior), particles, self.kind)
