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
from limbeck.graphics.rendering.gaussian_compositing import LOW_PASS_VARIANCE, MAX_OPACITY, ProjectedGaussians, composite_gaussians
from limbeck.representations.base import ParticleParameters, Render, Representation, RepresentationConfig, fit_to_images


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

    def projected_gaussians(self, view: Int[Tensor, "b"], height: int, width: int) -> ProjectedGaussians:
        """The Gaussians of particles in pixels of an image of a height and width."""
        part = {name: self.gather(name, view) for name in self.params}
        unit = min(height, width)
        mean = part["position"] * unit + part["position"].new_tensor([width / 2, height / 2])
        along, across = (self.largest * unit * part["scale"].sigmoid()).square().unbind(-1)
        # rotation by an angle, its double being all that a symmetric matrix knows
        half, turn = (along - across) / 2, 2 * part["rotation"]
        middle = (along + across) / 2 + LOW_PASS_VARIANCE
        xx, xy, yy = middle + half * turn.cos(), half * turn.sin(), middle - half * turn.cos()
        inverse = torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None]
        spread = torch.stack([xx, yy], -1).sqrt()
        return ProjectedGaussians(
            mean, inverse, spread, part["colour"].sigmoid(), MAX_OPACITY * part["opacity"].sigmoid()
        )

    def render_at(self, view: Int[Tensor, "b"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
        """The particles drawn at another resolution."""
        front, left = composite_gaussians(self.projected_gaussians(view, height, width), height, width)
        return front + left * self.gather("background", view).sigmoid()[:, :, None, None]

    def render(self, view: RenderRequest) -> Render:
        return Render(self.render_at(view.particle, *self.size), "image")


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

    num_gaussians: int = 1000
    init_scale: float = 0.8
    init_opacity: float = 0.5
    init_color_std: float = 0.1
    max_scale: float = 0.25
    init_steps: int = 200
    means_lr: float = 0.003
    scales_lr: float = 0.05
    rotations_lr: float = 0.05
    colors_lr: float = 0.1
    opacities_lr: float = 0.02

    def __post_init__(self) -> None:
        if self.num_gaussians < 1 or min(self.init_scale, self.max_scale) <= 0 or min(self.init_color_std, self.init_steps) < 0:
            raise ValueError(
                f"count must be at least 1, spacing and largest positive, spread and fit not negative: {self}"
            )
        if not 0 < self.init_opacity < MAX_OPACITY:
            raise ValueError(f"opacity must be in (0, {MAX_OPACITY}), not {self.init_opacity}")
        if min(self._lrs().values()) <= 0:
            raise ValueError(f"every rate must be positive: {self}")

    def _lrs(self) -> dict[str, float]:
        return {
            "position": self.means_lr, "scale": self.scales_lr, "rotation": self.rotations_lr,
            "colour": self.colors_lr, "opacity": self.opacities_lr, "background": self.colors_lr,
        }  # fmt: skip

    def _initial_params(self, particles: int, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        height, width = size
        n, unit = self.num_gaussians, min(size)
        even = [
            torch.quasirandom.SobolEngine(2, scramble=True, seed=seed * 1009 + i).draw(n)
            for i in range(particles)
        ]
        sigma = self.init_scale * math.sqrt(height * width / n) / unit
        share = torch.tensor(min(sigma / self.max_scale, 0.9))
        return {
            "position": (torch.stack(even) - 0.5) * torch.tensor([width / unit, height / unit]),
            "scale": share.logit().expand(particles, n, 2).clone(),
            "rotation": torch.zeros(particles, n),
            "colour": self.init_color_std * torch.randn(particles, n, 3, generator=rng),
            "opacity": torch.tensor(self.init_opacity / MAX_OPACITY).logit().expand(particles, n).clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        start = self._initial_params(particles if images is None else len(images), size, seed)
        if (
            images is not None
        ):  # each takes the colour of the pixel it lies on, and little shines through
            place = start["position"] * (2 * min(size) / torch.tensor([size[1], size[0]]))
            seen = F.grid_sample(
                images, place[:, None], align_corners=False, padding_mode="border"
            )[:, :, 0].transpose(1, 2)
            start["colour"] = seen.clamp(0.02, 0.98).logit()
            start["opacity"] = torch.full_like(start["opacity"], 0.9).logit()
        made = Gaussian2DParticles(start, self._lrs(), size, self.max_scale)
        return fit_to_images(made.to(prior.device), images, particles, self.init_steps)
