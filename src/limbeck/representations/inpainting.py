"""Another representation that may change only where a mask is white."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.image_files import read_image
from limbeck.representations.latents import Latents


class InpaintingParticles(Representation):
    """mask * what the inner one shows + (1 - mask) * what it showed first; pictures outside the mask are those it was given."""

    def __init__(
        self,
        inner: Representation,
        masks: Float[Tensor, "n 1 h w"],
        given: Float[Tensor, "n 3 h w"],
    ):
        super().__init__()
        self.inner = inner
        self.first: Tensor
        self.coarse: Tensor
        self.masks: Tensor
        self.given: Tensor
        with torch.no_grad():
            first = inner.render(RenderRequest(torch.arange(len(masks)))).image
        # a place of a latent is free if anything in it is
        coarse = F.adaptive_max_pool2d(masks, first.shape[-2:])
        for name, tensor in (
            ("first", first),
            ("coarse", coarse),
            ("masks", masks),
            ("given", given),
        ):
            self.register_buffer(
                name, tensor.detach().clone(), persistent=False
            )  # made anew from the files

    def _held(self, shown: Tensor, first: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask == 0, first, mask * shown + (1 - mask) * first)

    def render(self, view: RenderRequest) -> Render:
        render, rows = self.inner.render(view), to_device(view.particle, self.first.device)
        return Render(self._held(render.image, self.first[rows], self.coarse[rows]), render.space)

    def param_groups(self) -> Iterable[dict]:
        return self.inner.param_groups()

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        return self.inner.regularize(render, progress)

    def images(self, prior: Prior, view: RenderRequest) -> Float[Tensor, "b 3 h w"]:
        render, rows = self.render(view), to_device(view.particle, self.first.device)
        shown = render.image if render.space == "image" else prior.decode(render.image)
        return self._held(shown, self.given[rows], self.masks[rows])


@dataclass(frozen=True)
class Inpainting(RepresentationConfig):
    """A representation that begins with images and stays as they are outside masks.

    inner: that representation, with its images. masks: picture files, as many as its images, white where something may change; they
    are scaled and cut as the images are.
    """

    inner: RepresentationConfig = field(default_factory=Latents)
    masks: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.images or self.size != (0, 0):
            raise ValueError(
                "images and size are options of what is masked: give them behind inner, as in inner.images"
            )
        if not self.masks or len(self.masks) != len(self.inner.images):
            raise ValueError(
                f"there must be one mask per image, not {len(self.masks)} masks for {len(self.inner.images)} images"
            )

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        given = self.inner.initial_images(prior, particles)
        assert given is not None  # there are as many images as masks
        size = self.inner.canvas_size(prior)
        masks = torch.stack([read_image(path, size).mean(0, keepdim=True) for path in self.masks])
        if not bool((masks > 0).flatten(1).any(1).all()):
            raise ValueError(
                "a mask is black all over, so that nothing may change: white is what may change"
            )
        masks = masks.repeat_interleave(particles // len(masks), 0)
        return InpaintingParticles(
            self.inner.build(prior, particles, seed), masks.to(prior.device), given.to(prior.device)
        )
