"""Noise that the views of a 3D object share, as if it were fixed to the object (FSD, CFD)."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.config.lazy import defined_classes
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.noise import DriftingNoise, FixedPerParticleNoise, Noise
from limbeck.graphics.cameras.camera import Camera
from limbeck.system.random import RowRandom

_NO_OWNER = 2**63 - 1  #: above every packed pair of depth and pixel


@dataclass(frozen=True)
class RenderedSurface:
    """What is known of the surfaces that the rows of a step show.

    Attributes:
        camera: camera of each row, on the CPU.
        depth: depth along the axis of the camera.
        alpha: opacity.
    """

    camera: Camera
    depth: Float[Tensor, "b 1 y x"]
    alpha: Float[Tensor, "b 1 y x"]

    @staticmethod
    def of(inputs: StepInputs) -> RenderedSurface:
        """The surfaces of a step.

        Raises:
            ValueError: if the representation renders no depth.
        """
        if inputs.camera is None or inputs.depth is None or inputs.alpha is None:
            raise ValueError(
                "this noise needs renders with camera, depth and alpha, which this representation "
                "does not give: use --noise fixed-per-particle"
            )
        return RenderedSurface(inputs.camera, inputs.depth.detach(), inputs.alpha.detach())

    def points(
        self, height: int, width: int
    ) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
        """Surface points under the pixels of another resolution.

        Depths are interpolated with their opacities as weights, so that what lies behind an outline
        does not pull it back.

        Args:
            height: rows of pixels.
            width: columns of pixels.

        Returns:
            Points in world space, their depths and the opacities.
        """
        values = torch.cat([self.alpha * self.depth, self.alpha], 1)
        values = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
        alpha = values[:, 1]
        depth = values[:, 0] / alpha.clamp_min(1e-6)
        directions = self.camera.directions(height, width)
        axis = -self.camera.pose[:, None, None, :3, 2]
        ray = directions / (directions * axis).sum(-1, keepdim=True)  # of depth 1
        eye = to_device(self.camera.eye[:, None, None].float(), depth.device)
        points = eye + depth[..., None] * to_device(ray.float(), depth.device)
        return points, depth, alpha


@dataclass(frozen=True)
class ViewNoise(Noise):
    """Noise that the views of a particle share; views of the same surface are correlated.

    Attributes:
        background: noise where there is no surface. fixed: the same in all views and steps of a
            particle. fresh: independent.
    """

    background: Literal["fixed", "fresh"] = field(default="fixed", kw_only=True)

    needs_views = True

    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        """Draw the noise of the background."""
        if self.background == "fresh":
            return rng.normal("eps", *shape)
        return FixedPerParticleNoise()(rng, shape)

    @abc.abstractmethod
    def refine(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        """Put the noise of the surface over that of the background."""


@dataclass(frozen=True)
class WorldMapNoise(ViewNoise):
    """The window of a map of noise that belongs to azimuth and elevation of the camera (FSD).

    Attributes:
        window: degrees of azimuth and of elevation over which the window moves by its own size.
    """

    window: float = 180.0

    def __post_init__(self) -> None:
        if not 0 < self.window <= 180:
            raise ValueError(f"window must be in (0, 180] degrees, not {self.window}")

    def refine(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        surface, (channels, height, width) = RenderedSurface.of(inputs), inputs.x0.shape[1:]
        assert inputs.camera is not None
        rows = max(1, round(180 / self.window * height))
        columns = max(1, round(360 / self.window * width))
        world = _by_particle(inputs.rng, FixedPerParticleNoise(), channels, rows + height, columns)
        # on the CPU, as the cameras are
        top = ((0.5 - inputs.camera.elevation / math.pi) * rows).round().long()
        left = (inputs.camera.azimuth / (2 * math.pi) * columns).round().long() % columns
        row = top[:, None] + torch.arange(height)
        column = (left[:, None] + torch.arange(width)) % columns
        row_index = torch.arange(len(world))[:, None, None]
        seen = world[row_index, :, row[:, :, None], column[:, None]].permute(0, 3, 1, 2)
        opaque = F.adaptive_avg_pool2d(surface.alpha, (height, width)) >= 0.5
        return torch.where(opaque, to_device(seen.contiguous(), opaque.device), inputs.eps)


@dataclass(frozen=True)
class TransportedNoise(ViewNoise):
    """Noise that lies on the surface and is transported into every view of it (CFD).

    The texels of square maps of the sphere hold independent normal numbers. A pixel is the sum of
    those texels that it sees, divided by the root of their number. Every texel belongs to one pixel
    of a view at most, the nearest in depth, so the noise of a view is white with variance 1, and
    the correlation of pixels A and B of two views is |A and B| / sqrt(|A| |B|) in texels.

    Attributes:
        gamma: fraction of the variance of a texel that is new at each step, in [0, 1], as in
            ``drifting``. 0: fixed.
        texels: texels on a side of each map. 0: twice the pixels of the shorter side of x0.
        samples: points on a side of the grid by which each pixel finds its texels.
        shells: shells of equal thickness around the origin with maps of their own.
        extent: radius of the outer shell.
        min_alpha: opacity from which a point counts as surface.
    """

    gamma: float = 0.0001
    texels: int = field(default=0, metadata={"minimum": 0})
    samples: int = field(default=6, metadata={"minimum": 1})
    shells: int = field(default=4, metadata={"minimum": 1})
    extent: float = 1.0
    min_alpha: float = 0.1

    def __post_init__(self) -> None:
        DriftingNoise(self.gamma)  # checks it
        if not self.extent > 0:
            raise ValueError(f"extent must be positive, not {self.extent}")
        if not 0 < self.min_alpha <= 1:
            raise ValueError(f"min_alpha must be in (0, 1], not {self.min_alpha}")

    def refine(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        surface, (channels, height, width) = RenderedSurface.of(inputs), inputs.x0.shape[1:]
        owner = self.texel_owners(surface, height, width)
        values = _by_particle(inputs.rng, DriftingNoise(self.gamma), channels, owner.shape[1])
        values = to_device(values, owner.device)
        # the last pixel collects the texels that nobody sees
        total = values.new_zeros(*values.shape[:2], height * width + 1)
        total.scatter_add_(2, owner[:, None].expand_as(values), values)
        count = torch.zeros_like(total[:, 0]).scatter_add_(1, owner, torch.ones_like(values[:, 0]))
        noise = (total / count.clamp_min(1).sqrt()[:, None])[..., :-1]
        seen = (count[:, None, :-1] > 0).unflatten(2, (height, width))
        return torch.where(seen, noise.unflatten(2, (height, width)).to(inputs.eps), inputs.eps)

    def texel_owners(
        self, surface: RenderedSurface, height: int, width: int
    ) -> Int[Tensor, "b texels"]:
        """The pixel of each view that owns each texel.

        Args:
            surface: surfaces of the views.
            height: rows of the noise.
            width: columns of the noise.

        Returns:
            Number of the pixel, row by row; ``height * width`` for texels that no pixel sees.
        """
        side = self.texels or 2 * min(height, width)
        points, depth, alpha = surface.points(height * self.samples, width * self.samples)
        texel = sphere_texels(points.flatten(1, 2), side, self.shells, self.extent)
        row = torch.arange(height, device=depth.device).repeat_interleave(self.samples)
        column = torch.arange(width, device=depth.device).repeat_interleave(self.samples)
        pixel = row[:, None] * width + column
        # the bits of positive floats are ordered like the floats: the nearest is the smallest
        nearness = depth.clamp_min(0).float().view(torch.int32).long() << 32
        hidden: Bool[Tensor, "b h w"] = alpha < self.min_alpha
        packed = torch.where(hidden, _NO_OWNER, nearness + pixel).flatten(1)
        count = 6 * self.shells * side**2
        nearest = torch.full((len(texel), count), _NO_OWNER, device=depth.device)
        nearest.scatter_reduce_(1, texel.flatten(1), packed.repeat(1, 3), "amin", include_self=True)
        unseen = height * width
        return torch.where(nearest == _NO_OWNER, unseen, nearest & 0xFFFFFFFF)


def hemisphere_to_square(
    pole: Float[Tensor, "*n"], u: Float[Tensor, "*n"], v: Float[Tensor, "*n"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Map unit vectors of a hemisphere to the square [-1, 1]^2 so that equal areas stay equal.

    The distance from the center is sqrt(1 - pole), counted as the larger coordinate, and the
    azimuth is linear within each quarter.

    Args:
        pole: coordinate along the axis, in [0, 1].
        u: first coordinate across the axis.
        v: second coordinate across the axis.

    References:
        Shirley and Chiu 1997, A low distortion map between disk and square.
    """
    radius = (1 - pole).clamp_min(0).sqrt()
    swap = v.abs() > u.abs()
    major, minor = torch.where(swap, v, u), torch.where(swap, u, v)
    along = radius * major.sign()
    across = radius * (4 / math.pi) * (minor / major.abs().clamp_min(1e-12)).atan()
    return torch.where(swap, across, along), torch.where(swap, along, across)


def sphere_texels(
    points: Float[Tensor, "b n 3"], side: int, shells: int, extent: float
) -> Int[Tensor, "b 3 n"]:
    """Texels of points in the maps of the hemispheres about the three axes.

    Args:
        points: points in world space.
        side: texels on a side of a map.
        shells: number of shells.
        extent: radius of the outer shell; points beyond belong to it.

    Returns:
        Index of one texel per axis, below ``6 * shells * side ** 2``.
    """
    radius = points.norm(dim=-1)
    shell = (radius / extent * shells).long().clamp(0, shells - 1)
    direction = points / radius.clamp_min(1e-12)[..., None]
    found = []
    for axis in range(3):
        pole = direction[..., axis]
        u, v = direction[..., (axis + 1) % 3], direction[..., (axis + 2) % 3]
        x, y = hemisphere_to_square(pole.abs(), u, v)
        column, row = (((c + 1) / 2 * side).long().clamp(0, side - 1) for c in (x, y))
        map_index = (2 * axis + (pole < 0).long()) * shells + shell
        found.append((map_index * side + row) * side + column)
    return torch.stack(found, 1)


def _by_particle(rng: RowRandom, noise: Noise, *shape: int) -> Float[Tensor, "b ..."]:
    """Noise of each particle for its rows, drawn once for all of its views."""
    particles, row = rng.particle.unique(return_inverse=True)
    first = (rng.particle[None] == particles[:, None]).long().argmax(1)
    return noise(rng[first].fold("surface"), shape)[row]


def __dir__() -> list[str]:
    return defined_classes(__name__)
