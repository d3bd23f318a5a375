"""The radiance field of one particle: density and color at every point of its box."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.fields.background import Background, BackgroundModule
from limbeck.graphics.fields.decoders import Decoder
from limbeck.graphics.fields.density_init import DensityInit
from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule
from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid
from limbeck.graphics.rendering.volume import (
    RaySamples,
    importance_resample,
    ray_march,
    step_size,
)

_EMPTY_ALPHA = 0.01  #: A cell is empty if a sample in it has at most this alpha (as in nerfacc).


class FieldOptions(Protocol):
    """What a field reads of the options of its representation, such as ``NeRF``."""

    @property
    def encoding(self) -> Encoding: ...

    @property
    def decoder(self) -> Decoder: ...

    @property
    def density_init(self) -> DensityInit: ...

    @property
    def background(self) -> Background: ...

    @property
    def bound(self) -> float: ...

    @property
    def samples(self) -> int: ...

    @property
    def importance_samples(self) -> int: ...

    @property
    def space(self) -> Literal["image", "latent"]: ...

    @property
    def density_activation(self) -> Literal["softplus", "exp"]: ...

    @property
    def density_scale(self) -> float: ...

    @property
    def density_noise(self) -> float: ...

    @property
    def occupancy_resolution(self) -> int: ...

    @property
    def view_dependence(self) -> Literal["none", "brightness"]: ...


def _brightness(
    slope: Float[Tensor, "n 2"], directions: Float[Tensor, "n 3"] | None
) -> Float[Tensor, "n 1"] | float:
    """The brightness in (0, 1) of points by viewing direction.

    It is .73 for a slope of 0, near the mean over directions under a light that moves with the
    camera, as in the embedded world, where it is .4 to 1.
    """
    if directions is None:
        return 1 / (1 + math.exp(-1))
    return (1 + (slope * directions[:, ::2]).sum(1, keepdim=True)).sigmoid()  # no height, y


class _LatentBackground(BackgroundModule):
    """One learned latent in all directions."""

    def __init__(self, channels: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        directions: Float[Tensor, "*n 3"],
        rng: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> Float[Tensor, "*n c"]:
        return self.value.expand(*directions.shape[:-1], -1)


class RadianceField(nn.Module):
    """Density and color of the points of a box, and the background behind it.

    Args:
        config: options of the field.
        channels: channels of a render.
        generator: source of the initial parameters.

    Attributes:
        encoding: features of points.
        decoder: network from features to raw density and colors.
        background: what is seen where the field is transparent.
        occupancy: the cells that rays do not skip.
    """

    encoding: EncodingModule
    background: BackgroundModule
    occupancy: OccupancyGrid

    def __init__(self, config: FieldOptions, channels: int, generator: torch.Generator):
        super().__init__()
        self.config, self.channels = config, channels
        self.encoding = config.encoding.build(generator)
        outputs = 1 + channels + (2 if config.view_dependence == "brightness" else 0)
        self.decoder = config.decoder.build(self.encoding.num_features, generator, outputs)
        if config.space == "latent":
            self.background = _LatentBackground(channels)
        else:
            self.background = config.background.build(generator)
        threshold = -math.log1p(-_EMPTY_ALPHA) / step_size(config.bound, config.samples)
        self.occupancy = OccupancyGrid(config.occupancy_resolution, config.bound, threshold)

    def query(
        self,
        points: Float[Tensor, "n 3"],
        progress: float = 1.0,
        rng: torch.Generator | None = None,
        directions: Float[Tensor, "n 3"] | None = None,
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:
        """Evaluate the field.

        Args:
            points: points in world space.
            progress: fraction of the run, for encodings that change.
            rng: source of the density noise; None: no noise.
            directions: unit viewing directions of the points. None: colors without their
                dependence on the view.

        Returns:
            Density per unit of length, and albedo in [0, 1] or latents.
        """
        c = self.config
        raw = self.decoder(self.encoding(points / c.bound, progress))
        raw_density = c.density_scale * raw[:, 0] + c.density_init(points)
        if c.density_noise and rng is not None:
            noise = torch.randn(len(points), generator=rng).to(raw_density)
            raw_density = raw_density + c.density_noise * noise
        if c.density_activation == "softplus":
            density = F.softplus(raw_density)
        else:
            density = raw_density.clamp_max(15).exp()
        if c.space == "latent":
            return density, raw[:, 1:]
        color, slope = raw[:, 1 : 1 + self.channels].sigmoid(), raw[:, 1 + self.channels :]
        if c.view_dependence == "brightness":
            color = color * _brightness(slope, directions)
        return density, color

    def density(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n"]:
        """Return the density per unit of length.

        Args:
            points: points in world space.
            progress: fraction of the run, for encodings that change.
        """
        return self.query(points, progress)[0]

    def normals(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n 3"]:
        """Return unit normals, - grad density normalized.

        Central differences, so that gradients of lit colors reach the density.

        Args:
            points: points in world space.
            progress: fraction of the run, for encodings that change.
        """
        step = self.config.bound / 64
        offsets = step * torch.cat([torch.eye(3), -torch.eye(3)]).to(points)
        shifted = (points[:, None] + offsets).reshape(-1, 3)
        plus, minus = self.density(shifted, progress).view(-1, 2, 3).unbind(1)
        return F.normalize(minus - plus, dim=1, eps=1e-8)

    def sample_rays(
        self,
        eye: Float[Tensor, "b 3"],
        directions: Float[Tensor, "b h w 3"],
        request: RenderRequest,
    ) -> RaySamples:
        """Sample rays evenly, then where the field has weight.

        Args:
            eye: where the rays of each row start.
            directions: unit directions of the rays.
            request: source of the jitter, and fraction of the run.
        """
        c, rng = self.config, request.generator("rays")
        shape = directions.shape[:3]
        jitter = torch.full(shape, 0.5) if rng is None else torch.rand(shape, generator=rng)
        jitter = jitter.to(directions)
        samples = ray_march(eye, directions, c.bound, c.samples, jitter, self.occupancy)
        if not c.importance_samples:
            return samples
        with torch.no_grad():
            density = self.density(samples.points, request.progress)
        count = c.importance_samples
        return importance_resample(
            eye, directions, c.bound, samples, density, count, self.occupancy, jitter, rng
        )
