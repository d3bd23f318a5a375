"""Flux: a flow transformer on packed latents, told the tokens of T5, the pooled text of CLIP and, where distilled, a guidance."""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.scheduler_config import read_flow_schedule

_LATENT_SIZE = 128  #: of a latent: Flux's files name no size, and diffusers' pipeline takes this one


class Flux(LatentDiffusion):
    """Transformer, autoencoder and prompt cache of a pipeline in the layout of Flux.

    A network distilled with guidance (dev) is told the option ``distilled``, and one pass then is guided already. A method's own
    guidance s works on top, null + s (pos - null) of two passes told the same, as diffusers' ``true_cfg_scale`` does; 1 is none.
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
        self._require_config(
            config,
            patch_size=1,
            out_channels=None if config["out_channels"] is None else config["in_channels"],
        )
        self._takes_guidance = bool(config["guidance_embeds"])
        self.network = self._load_frozen_network(FluxTransformer2DModel)
        channels = config["in_channels"] // 4  # each token is 2 x 2 latents
        factor = self._load_vae(channels)
        self._set_shapes(_LATENT_SIZE, factor, 2 * factor, channels)
        self.schedule = read_flow_schedule(self.files, (self.shape[1] // 2) ** 2, ends_at_last=False)
        self._guidance = 3.5 if self.model.guidance_embedding is None else self.model.guidance_embedding

    def _encode(self, prompts: list[str]) -> Condition:
        length = 512 if self.takes_guidance else 256  # what dev and schnell were trained with
        tokens, pooled, _ = self._load_text_pipeline().encode_prompt(
            prompts, None, self.device, max_sequence_length=length
        )
        return Condition(tokens.float(), None, pooled.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b c h w"]:
        b, c, h, w = xt.shape
        packed = (
            xt.reshape(b, c, h // 2, 2, w // 2, 2)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(b, h * w // 4, 4 * c)
        )
        y, x = torch.meshgrid(
            *(torch.arange(side // 2, device=xt.device) for side in (h, w)), indexing="ij"
        )
        places = torch.stack([torch.zeros_like(y), y, x], -1).reshape(-1, 3).to(xt)
        guidance = (
            torch.full((b,), self._guidance, device=xt.device) if self.takes_guidance else None
        )
        words = places.new_zeros(told.data.shape[1], 3)
        out = self._run_network(
            packed, told.data, told.pooled, self.schedule.sigma(t).to(xt), places, words, guidance
        )
        return out.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
