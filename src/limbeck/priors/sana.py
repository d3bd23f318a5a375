"""SANA: a flow transformer with linear attention on latents of 32 x 32 pixels.

It is conditioned on the tokens of Gemma 2, of which the network masks the padding.
"""

from __future__ import annotations

import inspect

import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition, masked_condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.checkpoint_files import pipeline_class
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import TokenLimit
from limbeck.priors.scheduler_config import read_flow_solver_schedule

#: Of the 300 tokens that diffusers' pipeline keeps, one is the start of its instruction.
_TOKENS = 299


class Sana(LatentDiffusion):
    """A pipeline in the layout of SANA 1.0 and 1.5.

    As in the pipeline, an instruction stands before every prompt but the empty one. Sprint, which
    is distilled to few steps on another path of noise, is another pipeline.
    """

    pipeline_name = "SanaPipeline"
    network_name = "transformer"
    autoencoders = (AutoencoderDC,)
    schedule: RectifiedFlowSchedule

    def _load(self) -> None:
        self.prediction_type, self.schedule = "flow", read_flow_solver_schedule(self.files)
        config = self.files.full_config(SanaTransformer2DModel, self.network_name)
        channels = config["in_channels"]
        self._require_config(config, guidance_embeds=False)
        if config["out_channels"] not in (None, 2 * channels):  # the half is a learned variance
            self._require_config(config, out_channels=channels)
        self._time_scale = 1000 * config["timestep_scale"]
        self.network = self._load_frozen_network(SanaTransformer2DModel)
        factor = self._load_vae(channels)
        self._set_shapes(config["sample_size"], factor, config["patch_size"] * factor, channels)

    def _encode(self, prompts: list[str]) -> Condition:
        call = inspect.signature(pipeline_class(self.pipeline_name).__call__)
        instruction = call.parameters["complex_human_instruction"].default
        pipe = self._load_text_pipeline()
        limit = TokenLimit("text_encoder", pipe.tokenizer, _TOKENS)
        (texts,) = self._fit_prompts(prompts, limit)
        tokens, mask, null, null_mask = pipe.encode_prompt(
            texts,
            negative_prompt=[""] * len(texts),
            device=self.device,
            complex_human_instruction=instruction,
        )
        prompted = masked_condition(tokens, mask)
        is_empty = torch.tensor([not text for text in texts], device=self.device)
        return masked_condition(null, null_mask).where(is_empty, prompted)

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        time = self._time_scale * self.schedule.sigma(t).float()
        output = self._run_network(xt, condition.data, time, encoder_attention_mask=condition.mask)
        return output[:, : xt.shape[1]]

    def _vae_encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        encoded = self.vae.encode((image * 2 - 1).to(self.vae_dtype))
        return self._normalize(encoded.latent.float())
