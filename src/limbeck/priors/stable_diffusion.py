"""Stable Diffusion 1 and 2, and the embedded world model: a U-Net on latents, with CLIP tokens.

Prediction type, betas and their rescaling to zero terminal SNR are read from the scheduler's file.
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
from limbeck.priors.prompt_limits import clip_limit
from limbeck.priors.scheduler_config import read_discrete_schedule


class StableDiffusion(LatentDiffusion):
    """A pipeline in the layout of Stable Diffusion 1 and 2."""

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
        # two halvings of the latent; diffusers fits odd sizes of U-Nets with more of them
        self._set_shapes(config["sample_size"], factor, 4 * factor, config["in_channels"])

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline()
        (texts,) = self._fit_prompts(prompts, clip_limit(pipe))
        tokens, _ = pipe.encode_prompt(texts, self.device, 1, False)
        return Condition(tokens.float())

    def capture_attention(self) -> AbstractContextManager[list[Float[Tensor, "r c h w"]]]:
        """See ``AttentionPrior``."""
        return capture_self_attention(self.unet, self._eager())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        return self._run_network(xt, self.schedule.timestep_index(t), condition.data)
