"""Qwen-Image: a flow transformer on packed latents, conditioned on masked tokens of Qwen2.5-VL."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition, masked_condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.diffusion.tensors import to_unit_range
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import limit_after
from limbeck.priors.scheduler_config import read_flow_schedule

#: Height and width of the latents: the files have no size; diffusers' pipeline takes this one.
_LATENT_SIZE = 128
#: Tokens of every condition. The pipeline reads 1024, but every row would carry the padding.
_TOKENS = 512


class QwenImage(LatentDiffusion):
    """A pipeline in the layout of Qwen-Image.

    Its autoencoder is one of videos, here of one frame. The pipeline also scales the guided
    prediction of each token to the norm of the conditional one, which is left to its sampler.
    """

    pipeline_name = "QwenImagePipeline"
    network_name = "transformer"
    autoencoders = (AutoencoderKLQwenImage,)
    schedule: RectifiedFlowSchedule

    def _load(self) -> None:
        self.prediction_type = "flow"
        config = self.files.full_config(QwenImageTransformer2DModel, self.network_name)
        channels = config["in_channels"] // 4  # each token is 2 x 2 latents
        self._require_config(
            config,
            patch_size=2,
            out_channels=channels,
            guidance_embeds=False,
            use_additional_t_cond=False,
            use_layer3d_rope=False,
        )
        self.network = self._load_frozen_network(QwenImageTransformer2DModel)
        factor = self._load_vae(channels)
        self._set_shapes(_LATENT_SIZE, factor, 2 * factor, channels)
        num_tokens = (self.shape[1] // 2) ** 2
        self.schedule = read_flow_schedule(self.files, num_tokens, ends_at_last=False)

    def _read_vae_layout(self, config: Any) -> tuple[int, int]:
        return config["z_dim"], 2 ** len(config["temperal_downsample"])

    def _set_latent_scale(self, config: Any, place: str) -> None:
        mean, std = (self._per_channel(config[key]) for key in ("latents_mean", "latents_std"))
        self.latent_shift, self.latent_scale = mean, 1 / std

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline()
        prefix = pipe.prompt_template_encode.partition("{}")[0]  # of which the pipeline drops most
        most = _TOKENS + pipe.prompt_template_encode_start_idx
        (texts,) = self._fit_prompts(prompts, limit_after(prefix, pipe.tokenizer, most))
        tokens, mask = pipe.encode_prompt(texts, self.device, max_sequence_length=_TOKENS)
        if mask is None:
            mask = tokens.new_ones(tokens.shape[:2])
        padding = _TOKENS - tokens.shape[1]
        return masked_condition(
            nn.functional.pad(tokens, (0, 0, 0, padding)), nn.functional.pad(mask, (0, padding))
        )

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        b, c, h, w = xt.shape
        output = self._run_network(
            nn.functional.pixel_unshuffle(xt, 2).flatten(2).mT,
            condition.data,
            condition.mask,
            self.schedule.sigma(t).to(xt),
            [[(1, h // 2, w // 2)]] * b,
        )
        blocks = output.mT.reshape(b, 4 * c, h // 2, w // 2)
        return nn.functional.pixel_shuffle(blocks, 2)

    def _vae_encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        video = (image * 2 - 1).to(self.vae_dtype)[:, :, None]
        return self._normalize(self.vae.encode(video).latent_dist.mean[:, :, 0].float())

    def _vae_decode(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        latents = self._denormalize(x0).to(self.vae_dtype)[:, :, None]
        video = self.vae.decode(latents, return_dict=False)[0]
        return to_unit_range(video[:, :, 0].float() / 2 + 0.5)
