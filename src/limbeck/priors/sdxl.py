"""Stable Diffusion XL: a U-Net on latents.

It is conditioned on the tokens of two CLIP text encoders, a pooled text, and size and crop.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.priors.prompt_limits import clip_limit
from limbeck.priors.scheduler_config import read_discrete_schedule
from limbeck.priors.unet_diffusion import UNetDiffusion


class SDXL(UNetDiffusion):
    """A pipeline in the layout of Stable Diffusion XL.

    Size conditioning says that the image is neither scaled nor cropped: original and target size
    are those of x_t in pixels.
    """

    pipeline_name = "StableDiffusionXLPipeline"
    upcasts_vae_by_default = True

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(UNet2DConditionModel, self.network_name)
        pooled_dim = self.files.read_config("text_encoder_2")["projection_dim"]
        self._require_config(
            config,
            out_channels=config["in_channels"],
            addition_embed_type="text_time",
            time_cond_proj_dim=None,
            projection_class_embeddings_input_dim=6 * config["addition_time_embed_dim"]
            + pooled_dim,
        )
        self.unet = self.network = self._load_frozen_network(UNet2DConditionModel)
        self._time_ids: dict[tuple[int, int], Tensor] = {}
        self._load_other_parts(config)

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline(add_watermarker=False)
        texts, texts_2 = self._fit_prompts(prompts, clip_limit(pipe), clip_limit(pipe, 2))
        tokens, _, pooled, _ = pipe.encode_prompt(
            texts, texts_2, device=self.device, do_classifier_free_guidance=False
        )
        # as the pipeline does when no negative prompt is given
        if self.index.get("force_zeros_for_empty_prompt", True):
            nonempty = torch.tensor([bool(prompt) for prompt in prompts], device=tokens.device)
            tokens, pooled = tokens * nonempty[:, None, None], pooled * nonempty[:, None]
        return Condition(tokens.float(), None, pooled.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        height, width = self._pixel_size(xt)
        # cached, because copying them to a device would wait for it
        if (height, width) not in self._time_ids:
            self._time_ids[height, width] = xt.new_tensor([height, width, 0, 0, height, width])
        added_conditions = {
            "text_embeds": condition.pooled,
            "time_ids": self._time_ids[height, width].expand(len(xt), -1),
        }
        return self._run_unet(xt, self.schedule.timestep_index(t), condition, added_conditions)
