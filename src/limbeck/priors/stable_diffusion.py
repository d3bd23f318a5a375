"""Stable Diffusion 1 and 2, and the embedded world model: a U-Net on latents, with CLIP tokens.

Prediction type, betas and their rescaling to zero terminal SNR are read from the scheduler's file.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.priors.prompt_limits import clip_limit
from limbeck.priors.scheduler_config import read_discrete_schedule
from limbeck.priors.unet_diffusion import UNetDiffusion


class StableDiffusion(UNetDiffusion):
    """A pipeline in the layout of Stable Diffusion 1 and 2."""

    pipeline_name = "StableDiffusionPipeline"

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
        self._load_other_parts(config)

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline()
        (texts,) = self._fit_prompts(prompts, clip_limit(pipe))
        tokens, _ = pipe.encode_prompt(texts, self.device, 1, False)
        return Condition(tokens.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        return self._run_unet(xt, self.schedule.timestep_index(t), condition)
