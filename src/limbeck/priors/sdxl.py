"""Stable Diffusion XL: a U-Net on latents, told the tokens of two CLIPs, a pooled text and the size and crop of the picture."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.priors.attention_capture import capture_self_attention
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.scheduler_config import read_discrete_schedule


class SDXL(LatentDiffusion):
    """U-Net, autoencoder and prompt cache of a pipeline in the layout of Stable Diffusion XL.

    The network is told that the picture is whole and was not scaled, whatever its size: original and target size are those of x_t.
    """

    pipeline_name = "StableDiffusionXLPipeline"
    network_name = "unet"
    schedule: DiscreteSchedule

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(UNet2DConditionModel, self.network_name)
        width = self.files.read_config("text_encoder_2")["projection_dim"]
        self._require_config(
            config, out_channels=config["in_channels"], addition_embed_type="text_time", time_cond_proj_dim=None,
            projection_class_embeddings_input_dim=6 * config["addition_time_embed_dim"] + width,
        )  # fmt: skip
        self.unet = self.network = self._load_frozen_network(UNet2DConditionModel)
        self._ids: dict[tuple[int, int], Tensor] = {}
        self._factor = self._load_vae(config["in_channels"])
        self._set_shapes(config["sample_size"], self._factor, 4 * self._factor, config["in_channels"])

    def _encode(self, prompts: list[str]) -> Condition:
        tokens, _, pooled, _ = self._load_text_pipeline(add_watermarker=False).encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        if self.index.get(
            "force_zeros_for_empty_prompt", True
        ):  # what the pipeline does where no negative text is given
            said = torch.tensor([bool(p) for p in prompts], device=tokens.device)
            tokens, pooled = tokens * said[:, None, None], pooled * said[:, None]
        return Condition(tokens.float(), None, pooled.float())

    def capture_attention(self) -> AbstractContextManager[list[Float[Tensor, "r c h w"]]]:
        """See ``Attentive``."""
        return capture_self_attention(self.unet, self._uncompiled())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b c h w"]:
        height, width = (side * self._factor for side in xt.shape[2:])
        if (height, width) not in self._ids:  # made once: what is copied to a device waits for it
            self._ids[height, width] = xt.new_tensor([height, width, 0, 0, height, width])
        more = {
            "text_embeds": told.pooled,
            "time_ids": self._ids[height, width].expand(len(xt), -1),
        }
        return self._run_network(xt, self.schedule.timestep_index(t), told.data, added_cond_kwargs=more)
