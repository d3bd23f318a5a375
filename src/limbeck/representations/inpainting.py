"""Inpainting: another representation that changes only where a mask is white."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation, RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.system.image_files import read_mask
from limbeck.system.notices import notify


class InpaintingParticles(Representation):
    """mask * (render of the inner representation) + (1 - mask) * (its first render).

    Images outside the mask are the originals, not decoded latents.

    Args:
        inner: the representation of N particles that is optimized.
        masks: 1 where the image may change, 0 where not.
        originals: the initial images.
    """

    first: Tensor
    latent_masks: Tensor
    masks: Tensor
    originals: Tensor

    def __init__(
        self,
        inner: Representation,
        masks: Float[Tensor, "n 1 h w"],
        originals: Float[Tensor, "n 3 h w"],
    ):
        super().__init__()
        self.inner, self.init_message = inner, inner.init_message
        with torch.no_grad():
            first = inner.render(RenderRequest(torch.arange(len(masks)))).image
        # a latent pixel may change if any pixel of its patch may
        latent_masks = F.adaptive_max_pool2d(masks, first.shape[-2:])
        buffers = {
            "first": first,
            "latent_masks": latent_masks,
            "masks": masks,
            "originals": originals,
        }
        for name, tensor in buffers.items():  # not persistent: rebuilt from the files
            self.register_buffer(name, tensor.detach().clone(), persistent=False)

    def _blend(self, image: Tensor, original: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask == 0, original, mask * image + (1 - mask) * original)

    def render(self, request: RenderRequest) -> Render:
        render, rows = self.inner.render(request), to_device(request.particle, self.first.device)
        image = self._blend(render.image, self.first[rows], self.latent_masks[rows])
        return replace(render, image=image)

    @property
    def drawing(self) -> Representation:
        return self.inner

    def param_groups(self) -> Iterable[dict]:
        return self.inner.param_groups()

    def separate_particles(self) -> None:
        self.inner.separate_particles()

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        return self.inner.regularize(render, progress)

    def images(self, prior: Prior, request: RenderRequest) -> Float[Tensor, "b 3 h w"]:
        render, rows = self.render(request), to_device(request.particle, self.first.device)
        image = render.image if render.space == "image" else prior.decode(render.image)
        return self._blend(image, self.originals[rows], self.masks[rows])

    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Write the files of the inner representation into a folder of their own.

        They have no mask, so that they are not the image, as which a report shows its SVG.
        """
        drawings = folder / "inner"
        drawings.mkdir(parents=True, exist_ok=True)
        self.inner.save(drawings, names)
        if not any(drawings.iterdir()):
            drawings.rmdir()
            return
        notify(
            f"{drawings} holds the inner representation without its mask: outside of the mask, "
            "only the .png files are the original image"
        )


@dataclass(frozen=True)
class Inpainting(RepresentationConfig):
    """A representation that starts from images and stays as they are outside masks.

    Attributes:
        inner: the representation to inpaint, with its ``images``.
        masks: image files, one per image of ``inner``, white where it may change; scaled and
            cropped as the images are.
    """

    inner: RepresentationConfig = field(default_factory=Latents)
    masks: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.images or self.size != (0, 0):
            raise ValueError(
                "images and size belong to the inner representation: set them there, as in "
                "--representation.inner.images"
            )
        if not self.masks or len(self.masks) != len(self.inner.images):
            raise ValueError(
                f"there must be one mask per image, not {len(self.masks)} masks for "
                f"{len(self.inner.images)} images"
            )

    @property
    def image_files(self) -> tuple[Path, ...]:
        return (*self.inner.image_files, *self.masks)

    @property
    def input_files(self) -> tuple[Path, ...]:
        return (*self.inner.input_files, *self.masks)

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        originals = self.inner.initial_images(prior, particles)
        assert originals is not None  # there are as many images as masks
        size = self.inner.canvas_size(prior)
        masks = torch.stack([read_mask(path, size) for path in self.masks])
        for path, mask in zip(self.masks, masks, strict=True):
            if not bool((mask > 0).any()):
                raise ValueError(f"the mask {path} is all black: white is what may change")
        masks = masks.repeat_interleave(particles // len(masks), 0)
        inner = self.inner.build(prior, particles, seed)
        return InpaintingParticles(inner, masks.to(prior.device), originals.to(prior.device))
