"""Stable Diffusion 1 and 2, and the embedded world model: a U-Net on latents, told the tokens of CLIP.

The parametrisation, the betas and their rescaling to zero terminal signal are read from the scheduler's file, never assumed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.priors.attention_capture import capture_self_attention
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.scheduler_config import read_discrete_schedule


class StableDiffusion(LatentDiffusion):
    """U-Net, autoencoder and prompt cache of a pipeline in the Stable Diffusion layout."""

    pipeline_name = "StableDiffusionPipeline"
    network_name = "unet"
    schedule: DiscreteSchedule

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(UNet2DConditionModel, self.network_name)
        self._require_config(
            config,
            out_channels=config["in_channels"],
            addition_embed_type=None,
            class_embed_type=None,
            time_cond_proj_dim=None,
        )
        self.unet = self.network = self._load_frozen_network(UNet2DConditionModel)
        factor = self._load_vae(config["in_channels"])
        # two halvings of the latent; where a U-Net has more, diffusers fits the odd sizes
        self._set_shapes(config["sample_size"], factor, 4 * factor, config["in_channels"])

    def _encode(self, prompts: list[str]) -> Condition:
        told, _ = self._load_text_pipeline().encode_prompt(prompts, self.device, 1, False)
        return Condition(told.float())

    def capture_attention(self) -> AbstractContextManager[list[Float[Tensor, "r c h w"]]]:
        """See ``Attentive``."""
        return capture_self_attention(self.unet, self._uncompiled())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b c h w"]:
        return self._run_network(xt, self.schedule.timestep_index(t), told.data)
