"""Anisotropic 2D Gaussians, composited front to back: 3D Gaussian splatting without a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.config.ranges import check_minimums, check_positive
from limbeck.diffusion.prior import Prior
from limbeck.graphics.rendering.gaussian_compositing import (
    LOW_PASS_VARIANCE,
    MAX_OPACITY,
    ProjectedGaussians,
    composite_gaussians,
)
from limbeck.representations.base import Representation, RepresentationConfig
from limbeck.representations.image_init import (
    check_image_options,
    color_logits_at,
    fit_to_images,
    initial_rows,
    sobol_positions,
)
from limbeck.representations.primitives import PrimitiveParticles
from limbeck.system.random import RowRandom


class Gaussian2DParticles(PrimitiveParticles):
    """Particles of K Gaussians each, on a background of one color.

    Means and scales are in units of the short side, from the center of the canvas, so that a
    particle can be rendered at any resolution.

    Args:
        initial: initial ``means`` ``[N, K, 2]``, ``scales`` ``[N, K, 2]`` (logits of the fraction
            of ``max_scale``), ``rotations`` ``[N, K]`` (radians), ``colors`` ``[N, K, 3]``,
            ``opacities`` ``[N, K]`` and ``background`` ``[N, 3]`` (logits).
        lrs: their peak learning rates.
        size: height and width of a render in pixels.
        max_scale: largest standard deviation.
    """

    primitives = "Gaussians"

    def __init__(
        self,
        initial: dict[str, Tensor],
        lrs: dict[str, float],
        size: tuple[int, int],
        max_scale: float,
    ):
        super().__init__(initial, lrs, size)
        self.max_scale = max_scale

    def projected_gaussians(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> ProjectedGaussians:
        """Return the Gaussians in pixel units.

        Args:
            particle: particle of each row.
            height: height of the image in pixels.
            width: width of the image in pixels.
        """
        params = {name: self.gather(name, particle) for name in self.params}
        unit = min(height, width)
        center = params["means"].new_tensor([width / 2, height / 2])
        variances = (self.max_scale * unit * params["scales"].sigmoid()).square()
        major, minor = variances.unbind(-1)
        # the covariance of a rotation by an angle depends on twice the angle
        half_difference, angle = (major - minor) / 2, 2 * params["rotations"]
        mean = (major + minor) / 2 + LOW_PASS_VARIANCE
        xx = mean + half_difference * angle.cos()
        xy = half_difference * angle.sin()
        yy = mean - half_difference * angle.cos()
        return ProjectedGaussians(
            params["means"] * unit + center,
            torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None],
            torch.stack([xx, yy], -1).sqrt(),
            params["colors"].sigmoid(),
            MAX_OPACITY * params["opacities"].sigmoid(),
        )

    def render_at(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> Float[Tensor, "b 3 h w"]:
        gaussians = self.projected_gaussians(particle, height, width)
        color, transmittance = composite_gaussians(gaussians, height, width)
        background = self.gather("background", particle).sigmoid()[:, :, None, None]
        return color + transmittance * background


@dataclass(frozen=True)
class Gaussians2D(RepresentationConfig):
    """Gaussians composited in the order of their index, on a background of one color.

    Initially, round Gaussians near mid gray cover the canvas evenly.

    Attributes:
        num_gaussians: Gaussians per particle.
        init_scale: initial standard deviation, as a multiple of the distance of neighbors.
        init_opacity: initial opacity, in (0, 0.99); refused with ``images``,
            where it is 0.9 of 0.99.
        init_color_std: standard deviation of the initial color logits; refused with ``images``.
        max_scale: largest standard deviation, as a fraction of the short side of the image; bounds
            the cost of a render.
        init_steps: steps that fit the Gaussians to ``images``.
        means_lr: peak learning rate of the means, in units of the short side of the image.
        scales_lr: peak learning rate of the standard deviations, which are stored as the logit of
            their fraction of ``max_scale``.
        rotations_lr: peak learning rate of the angles, in radians.
        colors_lr: peak learning rate of the color logits, also of the background.
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
        check_minimums(self, num_gaussians=1, init_color_std=0, init_steps=0)
        lrs = ("means_lr", "scales_lr", "rotations_lr", "colors_lr", "opacities_lr")
        check_positive(self, "init_scale", "max_scale", *lrs)
        if not 0 < self.init_opacity < MAX_OPACITY:
            raise ValueError(f"init_opacity must be in (0, {MAX_OPACITY}), not {self.init_opacity}")
        check_image_options(self, "init_color_std", "init_opacity")

    def _lrs(self) -> dict[str, float]:
        return {
            "means": self.means_lr,
            "scales": self.scales_lr,
            "rotations": self.rotations_lr,
            "colors": self.colors_lr,
            "opacities": self.opacities_lr,
            "background": self.colors_lr,
        }

    def _initial_params(self, rng: RowRandom, size: tuple[int, int]) -> dict[str, Tensor]:
        particles, n = len(rng), self.num_gaussians
        height, width = size
        std = self.init_scale * math.sqrt(height * width / n) / min(size)
        fraction = torch.tensor(min(std / self.max_scale, 0.9))
        opacity = torch.tensor(self.init_opacity / MAX_OPACITY)
        return {
            "means": sobol_positions(rng, n, size),
            "scales": fraction.logit().expand(particles, n, 2).clone(),
            "rotations": torch.zeros(particles, n),
            "colors": self.init_color_std * rng.normal("colors", n, 3),
            "opacities": opacity.logit().expand(particles, n).clone(),
            "background": torch.zeros(particles, 3),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        size, images = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        initial = self._initial_params(initial_rows(self, particles, seed), size)
        if images is not None:
            initial["colors"] = color_logits_at(images, initial["means"])
            # nearly opaque, so that each is seen in its own color
            initial["opacities"] = torch.full_like(initial["opacities"], 0.9).logit()
        gaussians = Gaussian2DParticles(initial, self._lrs(), size, self.max_scale).to(prior.device)
        return fit_to_images(gaussians, images, particles, self.init_steps)
