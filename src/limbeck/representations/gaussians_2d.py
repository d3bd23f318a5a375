"""Anisotropic Gaussians in the plane, laid over one another: the image model of 3D Gaussian splatting, in two dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.rendering.gaussian_compositing import (
    BLUR,
    DENSEST,
    ProjectedGaussians,
    layers,
)
from limbeck.representations.base import (
    ParticleParameters,
    Render,
    Representation,
    RepresentationConfig,
    fit_to_images,
)


class Gaussian2DParticles(ParticleParameters):
    """Positions and sizes are in units of the short side, from the middle, so that a cloud can be drawn at any resolution."""

    def __init__(
        self,
        start: dict[str, Tensor],
        rates: dict[str, float],
        size: tuple[int, int],
        largest: float,
    ):
        super().__init__(start, rates)
        self.size, self.largest = size, largest

    def cloud(self, view: Int[Tensor, "b"], height: int, width: int) -> ProjectedGaussians:
        """The Gaussians of particles in pixels of an image of a height and width."""
        part = {name: self.gather(name, view) for name in self.parts}
        unit = min(height, width)
        mean = part["position"] * unit + part["position"].new_tensor([width / 2, height / 2])
        along, across = (self.largest * unit * part["scale"].sigmoid()).square().unbind(-1)
        # rotation by an angle, its double being all that a symmetric matrix knows
        half, turn = (along - across) / 2, 2 * part["rotation"]
        middle = (along + across) / 2 + BLUR
        xx, xy, yy = middle + half * turn.cos(), half * turn.sin(), middle - half * turn.cos()
        inverse = torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None]
        spread = torch.stack([xx, yy], -1).sqrt()
        return ProjectedGaussians(
            mean, inverse, spread, part["colour"].sigmoid(), DENSEST * part["opacity"].sigmoid()
        )

    def at(self, view: Int[Tensor, "b"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
        """The particles drawn at another resolution."""
        front, left = layers(self.cloud(view, height, width), height, width)
        return front + left * self.gather("background", view).sigmoid()[:, :, None, None]

    def render(self, view: RenderRequest) -> Render:
        return Render(self.at(view.particle, *self.size), "image")


@dataclass(frozen=True)
class Gaussians2D(RepresentationConfig):
    """Gaussians over one another, the first in front, on a background of one colour.

    The start covers the canvas evenly with round ones of nearly one grey. count: Gaussians per particle. spacing: their
    deviation at the start in units of the distance of neighbours. opacity: at the start, below 0.99. spread: deviation of the
    colour logits at the start. largest: limit of a deviation in units of the short side, which keeps lists of a tile short.
    fit: steps that fit the start to ``images``. rate_position: peak rate of the means in units of the short side. rate_scale:
    peak rate of the logits of the share of ``largest``. rate_rotation: peak rate of the angles in radians. rate_colour: peak rate
    of the colour logits. rate_opacity: peak rate of the opacity logits.
    """

    name = "gaussians-2d"

    count: int = 1000
    spacing: float = 0.8
    opacity: float = 0.5
    spread: float = 0.1
    largest: float = 0.25
    fit: int = 200
    rate_position: float = 0.003
    rate_scale: float = 0.05
    rate_rotation: float = 0.05
    rate_colour: float = 0.1
    rate_opacity: float = 0.02

    def __post_init__(self) -> None:
        if self.count < 1 or min(self.spacing, self.largest) <= 0 or min(self.spread, self.fit) < 0:
            raise ValueError(
                f"count must be at least 1, spacing and largest positive, spread and fit not negative: {self}"
            )
        if not 0 < self.opacity < DENSEST:
            raise ValueError(f"opacity must be in (0, {DENSEST}), not {self.opacity}")
        if min(self._rates().values()) <= 0:
            raise ValueError(f"every rate must be positive: {self}")

    def _rates(self) -> dict[str, float]:
        return {
            "position": self.rate_position, "scale": self.rate_scale, "rotation": self.rate_rotation,
            "colour": self.rate_colour, "opacity": self.rate_opacity, "background": self.rate_colour,
        }  # fmt: skip

    def _start(self, particles: int, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        height, width = size
        n, unit = self.count, min(size)
        even = [
            torch.quasirandom.SobolEngine(2, scramble=True, seed=seed * 1009 + i).draw(n)
            for i in range(particles)
        ]
        sigma = self.spacing * math.sqrt(height * width / n) / unit
        share = torch.tensor(min(sigma / self.largest, 0.9))
        return {
            "position": (torch.stack(even) - 0.5) * torch.tensor([width / unit, height / unit]),
            "scale": share.logit().expand(particles, n, 2).clone(),
            "rotation": torch.zeros(particles, n),
            "colour": self.spread * torch.randn(particles, n, 3, generator=rng),
            "opacity": torch.tensor(self.opacity / DENSEST).logit().expand(particles, n).clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        start = self._start(particles if images is None else len(images), size, seed)
        if (
            images is not None
        ):  # each takes the colour of the pixel it lies on, and little shines through
            place = start["position"] * (2 * min(size) / torch.tensor([size[1], size[0]]))
            seen = F.grid_sample(
                images, place[:, None], align_corners=False, padding_mode="border"
            )[:, :, 0].transpose(1, 2)
            start["colour"] = seen.clamp(0.02, 0.98).logit()
            start["opacity"] = torch.full_like(start["opacity"], 0.9).logit()
        made = Gaussian2DParticles(start, self._rates(), size, self.largest)
        return fit_to_images(made.to(prior.device), images, particles, self.fit)
