"""3D representations without a renderer: a ball in closed form, and the world's own objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.representations.base import Render, RepresentationConfig
from limbeck.representations.particle_parameters import ParticleParameters
from limbeck.world.scene import COLORS, OBJECTS, Scenes, render_scenes


class Balls(ParticleParameters):
    """A ball around the origin per particle, on gray."""

    def __init__(
        self, color: Tensor, radius: Tensor, size: tuple[int, int], sharpness: float, lr: float
    ):
        super().__init__({"color": color, "radius": radius}, {"color": lr, "radius": lr})
        self.size, self.sharpness = size, sharpness

    def render(self, request: RenderRequest) -> Render:
        assert request.camera is not None
        camera = request.camera.to(next(self.parameters()).device)
        directions = camera.directions(*self.size)
        eye = camera.eye[:, None, None]
        closest = -(eye * directions).sum(-1)  # where a ray is closest to the origin
        distance = (eye + closest[..., None] * directions).norm(dim=-1)
        radius = self.gather("radius", request.particle)[:, :, None]
        alpha = ((radius - distance) * self.sharpness).sigmoid()[:, None]
        depth = closest - (radius.square() - distance.square()).clamp_min(1e-6).sqrt()
        normal = torch.nn.functional.normalize(eye + depth[..., None] * directions, dim=-1)
        color = self.gather("color", request.particle).sigmoid()[:, :, None, None]
        image = alpha * color + (1 - alpha) * 0.5
        return Render(image, "image", alpha, alpha * depth[:, None], normal.permute(0, 3, 1, 2))


@dataclass(frozen=True)
class Ball(RepresentationConfig):
    """Balls.

    Attributes:
        radius: initial radius.
        sharpness: 1 / width of the edge, in units of world space.
        lr: learning rate.
    """

    radius: float = 0.8
    sharpness: float = 20.0
    lr: float = 0.05

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Balls:
        rng = torch.Generator().manual_seed(seed)
        color = torch.randn(particles, 3, generator=rng).to(prior.device)
        radius = torch.full((particles, 1), self.radius).to(prior.device)
        return Balls(color, radius, self.canvas_size(prior), self.sharpness, self.lr)


class Objects(ParticleParameters):
    """The world's objects, drawn by its renderer."""

    def __init__(self, spec: Object, particles: int):
        super().__init__({"nothing": torch.zeros(particles, 1)}, {"nothing": 0.0})
        self.spec = spec

    def render(self, request: RenderRequest) -> Render:
        from limbeck.world.normals import render_normals

        camera, spec = request.camera, self.spec
        assert camera is not None
        azimuth = camera.azimuth.double().numpy()
        if spec.faces > 1:
            period = 2 * np.pi / spec.faces
            azimuth = (azimuth + period / 2) % period - period / 2
        azimuth = -azimuth if spec.mirrored else azimuth
        zeros = np.zeros(len(request), np.int64)
        scenes = Scenes(
            zeros + OBJECTS.index(spec.object),
            zeros + COLORS.index(spec.color),
            zeros,
            zeros,
            azimuth,
            camera.elevation.double().numpy(),
            camera.distance.double().numpy(),
            np.ones(len(request)),
        )
        alpha, normal = render_normals(scenes.object, camera.eye.double().numpy(), 64)
        image = torch.from_numpy(render_scenes(scenes)).permute(0, 3, 1, 2).float() / 255
        if spec.stained:
            image[:, :, :, 32:] = torch.tensor([0.1, 0.2, 0.9]).view(3, 1, 1)
        image = image + 0 * self.gather("nothing", request.particle)[..., None, None]
        return Render(
            image,
            "image",
            torch.from_numpy(alpha)[:, None],
            None,
            torch.from_numpy(normal).permute(0, 3, 1, 2),
        )


@dataclass(frozen=True)
class Object(RepresentationConfig):
    """An object of the world.

    Attributes:
        object: which object.
        color: which color.
        faces: 1 for the object itself; n repeats its front n times around, a Janus object.
        mirrored: whether left and right are swapped: what should face left faces right.
        stained: whether the right half of its images is blue, in front of it and behind.
    """

    object: str = "duck"
    color: str = "yellow"
    faces: int = 1
    mirrored: bool = False
    stained: bool = False

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Objects:
        return Objects(self, particles)
