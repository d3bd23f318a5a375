"""Anisotropic 2D Gaussians composited front to back: the image model of 3D Gaussian splatting."""

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
    LOW_PASS_VARIANCE,
    MAX_OPACITY,
    ProjectedGaussians,
    composite_gaussians,
)
from limbeck.representations.base import (
    ParticleParameters,
    Render,
    Representation,
    RepresentationConfig,
    fit_to_images,
)


class Gaussian2DParticles(ParticleParameters):
    """Gaussians in units of the short edge, relative to the center, renderable at any resolution."""

    def __init__(
        self,
        initial: dict[str, Tensor],
        lrs: dict[str, float],
        size: tuple[int, int],
        max_scale: float,
    ):
        super().__init__(initial, lrs)
        self.size, self.max_scale = size, max_scale

    def projected_gaussians(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> ProjectedGaussians:
        """The Gaussians of particles in pixels of an image of the given height and width."""
        part = {name: self.gather(name, particle) for name in self.params}
        unit = min(height, width)
        mean = part["position"] * unit + part["position"].new_tensor([width / 2, height / 2])
        along, across = (self.max_scale * unit * part["scale"].sigmoid()).square().unbind(-1)
        # R diag(s^2) R^T of a 2D rotation, by the double angle
        half, angle = (along - across) / 2, 2 * part["rotation"]
        middle = (along + across) / 2 + LOW_PASS_VARIANCE
        xx, xy, yy = middle + half * angle.cos(), half * angle.sin(), middle - half * angle.cos()
        inverse = torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None]
        std = torch.stack([xx, yy], -1).sqrt()
        opacity = MAX_OPACITY * part["opacity"].sigmoid()
        return ProjectedGaussians(mean, inverse, std, part["color"].sigmoid(), opacity)

    def render_at(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> Float[Tensor, "b 3 h w"]:
        """Render particles at another resolution, given in pixels."""
        gaussians = self.projected_gaussians(particle, height, width)
        color, transmittance = composite_gaussians(gaussians, height, width)
        background = self.gather("background", particle).sigmoid()[:, :, None, None]
        return color + transmittance * background

    def render(self, request: RenderRequest) -> Render:
        return Render(self.render_at(request.particle, *self.size), "image")


@dataclass(frozen=True)
class Gaussians2D(RepresentationConfig):
    """2D Gaussians over a background of one color; the first Gaussian is in front.

    They are initialized evenly over the image, round and nearly gray.

    Attributes:
        num_gaussians: Gaussians per particle.
        init_scale: initial standard deviation, in units of the distance between neighbors.
        init_opacity: initial opacity, below 0.99.
        init_color_std: standard deviation of the initial color logits.
        max_scale: upper bound of a standard deviation, in units of the short edge; small values
            keep rendering fast.
        init_steps: fitting steps to ``images``.
        means_lr: peak learning rate of the means, in units of the short edge.
        scales_lr: peak learning rate of the logits of scale / max_scale.
        rotations_lr: peak learning rate of the angles, in radians.
        colors_lr: peak learning rate of the color logits, the background included.
        opacities_lr: peak learning rate of the opacity logits.
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
        if self.num_gaussians < 1 or min(self.init_scale, self.max_scale) <= 0:
            raise ValueError(
                "num_gaussians must be at least 1, init_scale and max_scale positive, "
                f"not {self.num_gaussians}, {self.init_scale} and {self.max_scale}"
            )
        if min(self.init_color_std, self.init_steps) < 0:
            raise ValueError(
                "init_color_std and init_steps must be at least 0, "
                f"not {self.init_color_std} and {self.init_steps}"
            )
        if not 0 < self.init_opacity < MAX_OPACITY:
            raise ValueError(f"init_opacity must be in (0, {MAX_OPACITY}), not {self.init_opacity}")
        if min(self._lrs().values()) <= 0:
            raise ValueError(f"learning rates must be positive, not {self._lrs()}")

    def _lrs(self) -> dict[str, float]:
        return {
            "position": self.means_lr,
            "scale": self.scales_lr,
            "rotation": self.rotations_lr,
            "color": self.colors_lr,
            "opacity": self.opacities_lr,
            "background": self.colors_lr,
        }

    def _initial_params(
        self, particles: int, size: tuple[int, int], seed: int
    ) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        height, width = size
        n, unit = self.num_gaussians, min(size)
        even = [
            torch.quasirandom.SobolEngine(2, scramble=True, seed=seed * 1009 + i).draw(n)
            for i in range(particles)
        ]
        sigma = self.init_scale * math.sqrt(height * width / n) / unit
        opacity = torch.tensor(self.init_opacity / MAX_OPACITY).logit()
        fraction = torch.tensor(min(sigma / self.max_scale, 0.9))
        return {
            "position": (torch.stack(even) - 0.5) * torch.tensor([width / unit, height / unit]),
            "scale": fraction.logit().expand(particles, n, 2).clone(),
            "rotation": torch.zeros(particles, n),
            "color": self.init_color_std * torch.randn(particles, n, 3, generator=rng),
            "opacity": opacity.expand(particles, n).clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        initial = self._initial_params(particles if images is None else len(images), size, seed)
        if images is not None:
            # nearly opaque, in the color of the pixel at the mean
            place = initial["position"] * (2 * min(size) / torch.tensor([size[1], size[0]]))
            colors = F.grid_sample(
                images, place[:, None], align_corners=False, padding_mode="border"
            )[:, :, 0].transpose(1, 2)
            initial["color"] = colors.clamp(0.02, 0.98).logit()
            initial["opacity"] = torch.full_like(initial["opacity"], 0.9).logit()
        gaussians = Gaussian2DParticles(initial, self._lrs(), size, self.max_scale)
        return fit_to_images(gaussians.to(prior.device), images, particles, self.init_steps)
