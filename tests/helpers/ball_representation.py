"""Things with sides that need no renderer: a ball by closed form, and the world's own objects, also with a face on every side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.views import CameraSampler, Orbit
from limbeck.representations.base import ParticleParameters, Render, RepresentationConfig
from limbeck.world.scene import COLOURS, OBJECTS, Scenes, render


class Balls(ParticleParameters):
    """A ball round the origin per particle, ``sharp`` at its edge, on grey."""

    def __init__(
        self, colour: Tensor, radius: Tensor, size: tuple[int, int], sharp: float, rate: float
    ):
        super().__init__({"colour": colour, "radius": radius}, {"colour": rate, "radius": rate})
        self.size, self.sharp = size, sharp

    def render(self, view: RenderRequest) -> Render:
        assert view.camera is not None
        camera = view.camera.to(next(self.parameters()).device)
        ahead = camera.directions(*self.size)
        eye = camera.eye[:, None, None]
        middle = -(eye * ahead).sum(-1)  # where a ray is nearest to the origin
        near = (eye + middle[..., None] * ahead).norm(dim=-1)
        radius = self.gather("radius", view.particle)[:, :, None]
        alpha = ((radius - near) * self.sharp).sigmoid()[:, None]
        depth = middle - (radius.square() - near.square()).clamp_min(1e-6).sqrt()
        normal = torch.nn.functional.normalize(eye + depth[..., None] * ahead, dim=-1).permute(
            0, 3, 1, 2
        )
        colour = self.gather("colour", view.particle).sigmoid()[:, :, None, None]
        return Render(
            alpha * colour + (1 - alpha) * 0.5, "image", alpha, alpha * depth[:, None], normal
        )


@dataclass(frozen=True)
class Ball(RepresentationConfig):
    """Balls.

    radius: at first. sharp: 1 / width of the edge, in units of space. rate: of Adam.
    """

    radius: float = 0.8
    sharp: float = 20.0
    rate: float = 0.05

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Balls:
        rng = torch.Generator().manual_seed(seed)
        colour = torch.randn(particles, 3, generator=rng)
        radius = torch.full((particles, 1), self.radius)
        return Balls(
            colour.to(prior.device),
            radius.to(prior.device),
            self.canvas_size(prior),
            self.sharp,
            self.rate,
        )


class Objects(ParticleParameters):
    """The world's objects as its renderer draws them; ``faces``: how many of them it has, turned evenly."""

    def __init__(self, spec: Object, particles: int):
        super().__init__({"nothing": torch.zeros(particles, 1)}, {"nothing": 0.0})
        self.spec = spec

    def render(self, view: RenderRequest) -> Render:
        from limbeck.world.normals import relief

        s, camera = self.spec, view.camera
        assert camera is not None
        turn = 2 * np.pi / s.faces
        azimuth = (
            (camera.azimuth.double().numpy() + turn / 2) % turn - turn / 2
            if s.faces > 1
            else camera.azimuth.double().numpy()
        )
        plain = np.zeros(len(view), np.int64)
        scenes = Scenes(
            plain + OBJECTS.index(s.object), plain + COLOURS.index(s.colour), plain, plain, azimuth,
            camera.elevation.double().numpy(), camera.distance.double().numpy(), np.ones(len(view)),
        )  # fmt: skip
        alpha, normal = (
            torch.from_numpy(x) for x in relief(scenes.object, camera.eye.double().numpy(), 64)
        )
        image = torch.from_numpy(render(scenes)).permute(0, 3, 1, 2).float() / 255
        image = image + 0 * self.gather("nothing", view.particle)[..., None, None]
        return Render(image, "image", alpha[:, None], None, normal.permute(0, 3, 1, 2))


@dataclass(frozen=True)
class Object(RepresentationConfig):
    """An object of the world.

    object, colour: which. faces: 1 for the object itself; n shows the same side n times on the way round.
    """

    object: str = "duck"
    colour: str = "yellow"
    faces: int = 1

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Objects:
        return Objects(self, particles)
