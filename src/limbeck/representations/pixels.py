"""Pixels as parameters, kept in [0, 1] by a sigmoid and distributed over a pyramid of scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.config.ranges import check_minimums, check_positive, refuse_given
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.image_init import color_logits
from limbeck.system.random import RowRandom


class PixelParticles(Representation):
    """Particles with image = sigmoid(sum of the levels, each upsampled to full size).

    Level k has 1 / 2^k of the resolution.

    Args:
        levels: initial logits of N particles, finest level first, ``[N, 3, H / 2^k, W / 2^k]``.
        lr: peak learning rate of the coarsest level; each finer one has half the rate.
        smoothness_weight: weight of the squared differences of neighboring pixels.
    """

    def __init__(self, levels: list[Float[Tensor, "n 3 h w"]], lr: float, smoothness_weight: float):
        super().__init__()
        self.names = [f"level{k}" for k in range(len(levels))]
        self.levels = nn.ParameterDict(
            {
                name: nn.ParameterList(level.unbind(0))
                for name, level in zip(self.names, levels, strict=True)
            }
        )
        self.lr, self.smoothness_weight = lr, smoothness_weight

    def render(self, request: RenderRequest) -> Render:
        rows = request.particle.tolist()
        levels = [torch.stack([self.levels[name][i] for i in rows]) for name in self.names]
        size = levels[0].shape[-2:]
        total = levels[0]
        for level in levels[1:]:
            total = total + F.interpolate(level, size, mode="bilinear", align_corners=False)
        return Render(total.sigmoid(), "image", particle=request.particle)

    def param_groups(self) -> list[dict]:
        coarsest = len(self.names) - 1
        return [
            {"params": list(self.levels[name]), "lr": self.lr * 0.5 ** (coarsest - k)}
            for k, name in enumerate(self.names)
        ]

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        if self.smoothness_weight == 0:
            return {}
        x = render.image
        differences = x.diff(dim=-1), x.diff(dim=-2)
        horizontal, vertical = (d.square().sum((1, 2, 3)) for d in differences)
        energy = horizontal + vertical
        if render.particle is not None:  # rows of a particle are the same image: their mean
            views = render.particle.bincount()[render.particle]
            energy = energy / to_device(views, energy.device)
        return {"smoothness": self.smoothness_weight * energy.sum()}


@dataclass(frozen=True)
class Pixels(RepresentationConfig):
    """RGB images, initialized near mid gray.

    A gradient through an autoencoder is rough at the finest scale. Each level of the pyramid has
    half the learning rate of the next coarser one, so that changes shared by neighboring pixels
    come first.

    Attributes:
        lr: peak learning rate of the logits at the coarsest level.
        num_levels: scales of the pyramid. 1: plain pixels.
        init_std: standard deviation of the initial logits at the coarsest level; refused with
            ``images``.
        smoothness_weight: weight of the squared differences of neighboring pixels. 0: off, which
            leaves a faint grid at the stride of the autoencoder.
    """

    lr: float = 0.2
    num_levels: int = 5
    init_std: float = 0.5
    smoothness_weight: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "lr")
        check_minimums(self, num_levels=1, init_std=0, smoothness_weight=0)
        if self.images:
            refuse_given(self, "with images: leave it out", "init_std")

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        rng = RowRandom.initial(seed, particles)
        h, w = self.canvas_size(prior)
        sizes = [(max(h >> k, 1), max(w >> k, 1)) for k in range(self.num_levels)]
        levels = [torch.zeros(particles, 3, *size) for size in sizes]
        levels[-1] = self.init_std * rng.normal("pixels", *levels[-1].shape[1:])
        images = self.initial_images(prior, particles)
        if images is not None:  # only the finest level can hold them
            levels = [color_logits(images), *(torch.zeros_like(level) for level in levels[1:])]
        return PixelParticles(levels, self.lr, self.smoothness_weight).to(prior.device)
