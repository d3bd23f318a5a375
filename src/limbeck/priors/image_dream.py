"""ImageDream: MVDream that also sees an image of the object.

References:
    ImageDream (Wang & Shi 2023, arXiv 2312.02201).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.camera_input import camera_labels
from limbeck.diffusion.condition import Condition
from limbeck.priors.checkpoint_files import (
    load_frozen_module,
    loading,
    positive_int,
    silence_library_logs,
)
from limbeck.priors.image_dream_files import has_image_view, load_image_dream_unet
from limbeck.priors.mvdream import MVDream
from limbeck.priors.weight_files import preferred_weights
from limbeck.priors.zero123 import normalize_for_clip


class ImageDream(MVDream):
    """ImageDream, a ``MultiViewPrior`` and an ``ImagePromptPrior``.

    The image prompt of a row is one vector: the features of CLIP for all patches of the image, of
    which a resampler makes tokens beside those of the text, and the latents of the image, which
    the self-attention sees as a further view of the group. Both are zero for no image.

    Attributes:
        has_image_view: whether the latents are seen; else there are only the tokens.
    """

    extra_parts = ("vae", "image_encoder")

    def _load(self) -> None:
        self._features = self._feature_shape()
        self.has_image_view = has_image_view(self.files)
        super()._load()

    def _load_network(self) -> Any:
        return load_image_dream_unet(self.files, self.dtype)

    def _feature_shape(self) -> tuple[int, int]:
        """Patches of an image, with the class token, and numbers of each."""
        folder, place = self.files.folder / "image_encoder", self.files.place("image_encoder")
        found = folder.is_dir() and preferred_weights(file.name for file in folder.iterdir())
        if not found:
            raise ValueError(
                f"{self.files.name} needs the image encoder that it was trained with, which "
                f"{folder} does not have: give a pipeline folder with one, for a single file by "
                "--model.config FOLDER"
            )
        config = self.files.read_config("image_encoder")
        size, patch, width = (
            positive_int(config, key, place) for key in ("image_size", "patch_size", "hidden_size")
        )
        return (size // patch) ** 2 + 1, width

    def condition(self, prompts: Sequence[str]) -> Condition:
        """See ``Prior.condition``; without an image."""
        condition = super().condition(prompts)
        tokens, width = self._features
        size = tokens * width + torch.Size(self.shape).numel()
        nothing = torch.zeros(1, size, device=self.device).expand(len(prompts), -1)
        return replace(condition, image_prompt=nothing)

    @torch.no_grad()
    def encode_image_prompt(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """See ``ImagePromptPrior``."""
        image = image.to(self.device, torch.float32)
        latents = self.encode(image)
        encoder = self._image_encoder
        with silence_library_logs(), loading(f"the image encoder of {self.files.name}"):
            size = (encoder.config.image_size,) * 2
            # as OpenCLIP prepares images, smoothed where they get smaller
            resized = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
            pixels = normalize_for_clip(resized).to(self.dtype)
            features = encoder(pixels, output_hidden_states=True).hidden_states[-2]
        return torch.cat([features.float().flatten(1), latents.flatten(1)], 1)

    @cached_property
    def _image_encoder(self) -> Any:
        """The image encoder, which is kept: every step encodes the image on another background."""
        from transformers import CLIPVisionModelWithProjection

        folder = self.files.folder / "image_encoder"
        encoder: Any = load_frozen_module(CLIPVisionModelWithProjection, folder, self.dtype)
        return encoder.to(self.device)

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        features, latents = self._split(xt, condition.image_prompt)
        ticks, text = self.schedule.timestep_index(t), condition.data
        if condition.camera is None:
            with self._without_camera():
                return self._run_network(xt, ticks, text, added_cond_kwargs=_shown(features))
        self._check_groups(len(xt))
        labels, size = camera_labels(condition.camera).to(xt.dtype), self.group_size
        if not self.has_image_view:
            with self.folding.groups_of(size):
                return self._run_network(
                    xt, ticks, text, labels, added_cond_kwargs=_shown(features)
                )

        def with_view(values: Tensor, view: Tensor) -> Tensor:
            groups = torch.cat([values.unflatten(0, (-1, size)), view[::size, None]], 1)
            return groups.flatten(0, 1)

        if (pose := self.adapter_rows.pose) is not None:  # that of the rows of a critic
            self.adapter_rows.pose = with_view(pose, torch.zeros_like(pose))
        shown = _shown(with_view(features, features))
        with self.folding.groups_of(size + 1):
            output = self._run_network(
                with_view(xt, latents),
                with_view(ticks, ticks),
                with_view(text, text),
                with_view(labels, torch.zeros_like(labels)),
                added_cond_kwargs=shown,
            )
        return output.unflatten(0, (-1, size + 1))[:, :size].flatten(0, 1)

    def _split(self, xt: Tensor, image_prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features of CLIP and latents of the image of each row."""
        (tokens, width), shape = self._features, xt.shape[1:]
        size = tokens * width
        if image_prompt is None:
            image_prompt = xt.new_zeros(len(xt), size + shape.numel())
        if image_prompt.shape[1] != size + shape.numel():
            raise ValueError(
                f"latents of the image are {list(self.shape[1:])}, those of the renders "
                f"{list(shape[1:])}: leave out --representation.size"
            )
        features, latents = image_prompt.split([size, shape.numel()], 1)
        return features.unflatten(1, (tokens, width)), latents.unflatten(1, shape)


def _shown(features: Float[Tensor, "b t d"]) -> dict[str, list[Tensor]]:
    """Inputs of the network for the features of one image per row."""
    return {"image_embeds": [features[:, None]]}
