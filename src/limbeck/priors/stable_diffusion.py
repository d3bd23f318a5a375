"""Stable Diffusion 1 and 2, and the embedded world model: a U-Net on latents, with CLIP tokens.

Prediction type, betas and their rescaling to zero terminal SNR are read from the scheduler's file.
"""

from __future__ import annotations

import copy
from pathlib import Path

from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.priors.checkpoint_files import silence_library_logs
from limbeck.priors.prompt_limits import clip_limit
from limbeck.priors.scheduler_config import one_step_scheduler, read_discrete_schedule
from limbeck.priors.unet_diffusion import UNetDiffusion
from limbeck.system.files import creating_folder


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

    def save_one_step_pipeline(self, unet: nn.Module, folder: Path) -> None:
        """Write a StableDiffusionPipeline in float32 that draws x0 in one step, without guidance.

        Args:
            unet: the U-Net of a one-step generator, which predicts x0 of noise at the last time.
            folder: folder to create.

        Raises:
            ValueError: if the model has inputs or classes that this pipeline has not.
        """
        if type(self) is not StableDiffusion or self.control_net or self.image_prompt:
            raise ValueError(
                "a one-step pipeline has no ControlNet and no IP-Adapter, and is of the layout of "
                "Stable Diffusion 1 and 2: this model is another"
            )
        texts = self._load_text_pipeline().components
        with silence_library_logs():  # it warns of image processors that are not needed
            from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline(
            vae=copy.deepcopy(self.vae).float(),
            text_encoder=texts["text_encoder"].float(),
            tokenizer=texts["tokenizer"],
            unet=unet,
            scheduler=one_step_scheduler(self.files),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        with creating_folder(folder) as part:
            pipe.save_pretrained(part)
