"""Flux.1: a flow transformer on packed latents, conditioned on T5 tokens and the pooled CLIP text.

Flux dev also takes a guidance scale.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import TokenLimit, clip_limit
from limbeck.priors.scheduler_config import read_flow_schedule

#: Height and width of the latents: Flux's files have no size; diffusers' pipeline takes this one.
_LATENT_SIZE = 128


class Flux(LatentDiffusion):
    """A pipeline in the layout of Flux.1.

    A guidance-distilled network (dev) takes the option ``guidance_embedding``, so one pass already
    has guidance. The guidance s of a method works on top, null + s (pos - null) of two passes with
    the same embedding, as diffusers' ``true_cfg_scale`` does; 1 is none.
    """

    pipeline_name = "FluxPipeline"
    network_name = "transformer"
    schedule: RectifiedFlowSchedule

    @property
    def takes_guidance(self) -> bool:
        return self._takes_guidance

    def _load(self) -> None:
        self.prediction_type = "flow"
        config = self.files.full_config(FluxTransformer2DModel, self.network_name)
        out_channels = None if config["out_channels"] is None else config["in_channels"]
        self._require_config(config, patch_size=1, out_channels=out_channels)
        self._takes_guidance = bool(config["guidance_embeds"])
        self.network = self._load_frozen_network(FluxTransformer2DModel)
        channels = config["in_channels"] // 4  # each token is 2 x 2 latents
        factor = self._load_vae(channels)
        self._set_shapes(_LATENT_SIZE, factor, 2 * factor, channels)
        num_tokens = (self.shape[1] // 2) ** 2
        self.schedule = read_flow_schedule(self.files, num_tokens, ends_at_last=False)
        embedding = self.model.guidance_embedding
        self._guidance = 3.5 if embedding is None else embedding

    def _encode(self, prompts: list[str]) -> Condition:
        length = 512 if self.takes_guidance else 256  # in the training of dev and of schnell
        pipe = self._load_text_pipeline()
        t5_limit = TokenLimit("text_encoder_2", pipe.tokenizer_2, length)
        texts, texts_2 = self._fit_prompts(prompts, clip_limit(pipe), t5_limit)
        tokens, pooled, _ = pipe.encode_prompt(
            texts, texts_2, self.device, max_sequence_length=length
        )
        return Condition(tokens.float(), None, pooled.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        b, c, h, w = xt.shape
        blocks = xt.reshape(b, c, h // 2, 2, w // 2, 2)
        tokens = blocks.permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)
        y = torch.arange(h // 2, device=xt.device)
        x = torch.arange(w // 2, device=xt.device)
        y, x = torch.meshgrid(y, x, indexing="ij")
        image_ids = torch.stack([torch.zeros_like(y), y, x], -1).reshape(-1, 3).to(xt)
        text_ids = image_ids.new_zeros(condition.data.shape[1], 3)
        guidance = None
        if self.takes_guidance:
            guidance = torch.full((b,), self._guidance, device=xt.device)
        output = self._run_network(
            tokens,
            condition.data,
            condition.pooled,
            self.schedule.sigma(t).to(xt),
            image_ids,
            text_ids,
            guidance,
        )
        blocks = output.reshape(b, h // 2, w // 2, c, 2, 2)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
