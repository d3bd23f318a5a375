"""Base class of latent diffusion models whose denoiser is a U-Net.

It can have a ControlNet and an IP-Adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.diffusion.attention_maps import AttentionMaps
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prior import ControlKind
from limbeck.diffusion.prompts import prompt_parts
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.diffusion.view_attention import folded_views
from limbeck.priors.attention_capture import capture_self_attention
from limbeck.priors.attention_maps import capture_maps, changed_positions
from limbeck.priors.controlnet import ControlNet
from limbeck.priors.ip_adapter import ImagePrompt
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import TokenLimit


class UNetDiffusion(LatentDiffusion):
    """A U-Net on latents whose attention can be captured and folded, and controlled by an image.

    It is an ``AttentionPrior``, ``AttentionMapPrior``, ``FoldablePrior`` and ``ControlledPrior``.

    Attributes:
        unet: the denoiser.
        control_net: what controls it; None if the options name no ControlNet.
        image_prompt: the image that it is shown; None if the options name no IP-Adapter.
    """

    network_name = "unet"
    takes_adapters = True
    schedule: DiscreteSchedule
    unet: Any
    control_net: ControlNet | None = None
    image_prompt: ImagePrompt | None = None

    def _load_other_parts(self, config: dict[str, Any]) -> None:
        """Load the autoencoder, the ControlNet and the IP-Adapter; set the shapes.

        Args:
            config: options of the U-Net.
        """
        channels = config["out_channels"]
        self._factor = self._load_vae(channels)
        # two halvings of the latent; diffusers fits odd sizes of U-Nets with more of them
        self._set_shapes(config["sample_size"], self._factor, 4 * self._factor, channels)
        if self.model.control:
            self.control_net = ControlNet(
                self.model, config, self._factor, self.dtype, self.device, self.runtime
            )
        if self.model.ip_adapter:
            self.image_prompt = ImagePrompt(self.model, self.unet, self.dtype, self.device)

    @property
    def control_kind(self) -> ControlKind | None:
        """See ``ControlledPrior``."""
        return None if self.control_net is None else self.control_net.kind

    @property
    def denoising_modules(self) -> list[nn.Module]:
        modules = super().denoising_modules
        return modules if self.control_net is None else [*modules, self.control_net]

    def condition(self, prompts: Sequence[str]) -> Condition:
        condition = super().condition(prompts)
        if self.image_prompt is None:
            return condition
        return replace(condition, image_prompt=self.image_prompt.embeddings(prompts))

    def capture_attention(self) -> AbstractContextManager[list[Float[Tensor, "r c h w"]]]:
        """See ``AttentionPrior``."""
        return capture_self_attention(self.unet, self._eager())

    @cached_property
    def _token_ids(self) -> dict[tuple[str, str], list[int]]:
        """Token ids of the prompts that were encoded, by their parts."""
        return {}

    def capture_attention_maps(self) -> AbstractContextManager[list[AttentionMaps]]:
        """See ``AttentionMapPrior``."""
        return capture_maps(self.unet, self._eager())

    def changed_tokens(self, prompts: Sequence[str], sources: Sequence[str]) -> Bool[Tensor, "n l"]:
        """See ``AttentionMapPrior``. A model that reads no text has no tokens that change."""
        tokens = self.condition([*prompts, *sources]).data.shape[1]
        changed = torch.zeros(len(prompts), tokens, dtype=torch.bool)
        for row, pair in zip(changed, zip(prompts, sources, strict=True), strict=True):
            target_ids, source_ids = (self._token_ids.get(prompt_parts(p), []) for p in pair)
            row[changed_positions(source_ids, target_ids)] = True
        return changed.to(self.device)

    def _fit_prompts(self, prompts: Sequence[str], *limits: TokenLimit) -> list[list[str]]:
        """Also keep the token ids of the texts; all text encoders of a family have the same."""
        texts = super()._fit_prompts(prompts, *limits)
        for prompt, text in zip(prompts, texts[0], strict=True):
            self._token_ids[prompt_parts(prompt)] = limits[0].token_ids(text)
        return texts

    def fold_views(self, size: int) -> AbstractContextManager[None]:
        """See ``FoldablePrior``."""
        return folded_views(self.unet, size, self._eager())

    def _pixel_size(self, xt: Float[Tensor, "b c h w"]) -> tuple[int, int]:
        """Height and width in pixels of the images of latents."""
        return xt.shape[2] * self._factor, xt.shape[3] * self._factor

    def _run_unet(
        self,
        xt: Float[Tensor, "b c h w"],
        ticks: Tensor,
        condition: Condition,
        added_conditions: dict[str, Tensor | None] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the output of the U-Net, with ControlNet and IP-Adapter if there are.

        Args:
            xt: x_t of each row.
            ticks: timestep index of each row.
            condition: text, control image and image prompt of each row.
            added_conditions: further inputs of the network, as diffusers' ``added_cond_kwargs``.
        """
        options: dict[str, Any] = {}
        if added_conditions is not None:
            options["added_cond_kwargs"] = added_conditions
        if self.control_net is not None:
            size = self._pixel_size(xt)
            options |= self.control_net(xt, ticks, condition, size, options)
        if self.image_prompt is not None:
            shown = condition.image_prompt
            if shown is None:
                shown = self.image_prompt.embeddings([""] * len(xt))
            added = {"image_embeds": [shown.to(xt.dtype)], **(added_conditions or {})}
            options["added_cond_kwargs"] = added
        return self._run_network(xt, ticks, condition.data, **options)
