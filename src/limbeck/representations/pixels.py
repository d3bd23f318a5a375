"""Pixels as parameters, kept in [0, 1] by a sigmoid and spread over a pyramid of scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig


class PixelParticles(Representation):
    """image = sigmoid(sum of the levels, each enlarged to full size); level k has 1 / 2^k of the resolution."""

    def __init__(self, start: list[Tensor], rate: float, smooth: float):
        super().__init__()
        self.names = [f"level{k}" for k in range(len(start))]
        self.levels = nn.ParameterDict(
            {
                name: nn.ParameterList(level.unbind(0))
                for name, level in zip(self.names, start, strict=True)
            }
        )
        self.rate, self.smooth = rate, smooth

    def render(self, view: RenderRequest) -> Render:
        rows = view.particle.tolist()
        stacks = [torch.stack([self.levels[name][i] for i in rows]) for name in self.names]
        size = stacks[0].shape[-2:]
        total = stacks[0]
        for stack in stacks[1:]:
            total = total + F.interpolate(stack, size, mode="bilinear", align_corners=False)
        return Render(total.sigmoid(), "image")

    def param_groups(self) -> list[dict]:
        coarsest = len(self.names) - 1
        return [
            {"params": list(self.levels[name]), "lr": self.rate * 0.5 ** (coarsest - k)}
            for k, name in enumerate(self.names)
        ]

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        if self.smooth == 0:
            return {}
        x = render.image
        steep = (
            x.diff(dim=-1).square().sum((1, 2, 3)) + x.diff(dim=-2).square().sum((1, 2, 3))
        ).sum()
        return {"smooth": self.smooth * steep}


@dataclass(frozen=True)
class Pixels(RepresentationConfig):
    """RGB particles that start near mid grey.

    A gradient through an autoencoder is rough at the finest scale. Each level of the pyramid moves at half the rate of the next
    coarser one, so that what neighbours agree on comes first. rate: peak learning rate of the logits at the coarsest level. levels:
    scales, 1 for plain pixels. spread: deviation of the start at the coarsest level. smooth: weight of squared differences of
    neighbours; 0 leaves a faint grid at the autoencoder's stride.
    """

    lr: float = 0.2
    num_levels: int = 5
    init_std: float = 0.5
    smoothness_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.num_levels < 1 or self.init_std < 0 or self.smoothness_weight < 0:
            raise ValueError(
                f"rate must be positive, levels at least 1, spread and smooth not negative: {self}"
            )

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        rng = torch.Generator().manual_seed(seed)
        h, w = self.canvas_size(prior)
        sizes = [(max(h >> k, 1), max(w >> k, 1)) for k in range(self.num_levels)]
        start = [torch.zeros(particles, 3, *size) for size in sizes]
        start[-1] = self.init_std * torch.randn(start[-1].shape, generator=rng)
        images = self.initial_images(prior, particles)
        if images is not None:  # all at the finest level, which alone can hold them
            start = [
                images.clamp(0.02, 0.98).logit(),
                *(torch.zeros_like(level) for level in start[1:]),
            ]
        return PixelParticles(start, self.lr, self.smoothness_weight).to(prior.device)
