"""PixArt-alpha and PixArt-sigma: a transformer that predicts noise, on the latents of SD or XL.

It is conditioned on T5 tokens, of which the network masks the padding.
"""

from __future__ import annotations

from diffusers import PixArtTransformer2DModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition, masked_condition
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import TokenLimit
from limbeck.priors.scheduler_config import read_discrete_schedule


class PixArt(LatentDiffusion):
    """A pipeline in the layout of PixArt-alpha or PixArt-sigma.

    The learned variance is not used: it belongs to ancestral sampling, not to the score. Networks
    of PixArt-alpha at 1024 pixels also take height, width and aspect ratio of the image.
    """

    pipeline_name = "PixArtSigmaPipeline"
    network_name = "transformer"
    schedule: DiscreteSchedule

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(PixArtTransformer2DModel, self.network_name)
        channels = config["in_channels"]
        if config["out_channels"] not in (None, channels):  # without and with a learned variance
            self._require_config(config, out_channels=2 * channels)
        self.transformer = self.network = self._load_frozen_network(PixArtTransformer2DModel)
        factor = self._load_vae(channels)
        self._set_shapes(config["sample_size"], factor, config["patch_size"] * factor, channels)

    def _encode(self, prompts: list[str]) -> Condition:
        is_alpha = "Alpha" in str(self.index.get("_class_name"))
        length = 120 if is_alpha else 300  # defaults of the two pipelines
        pipe = self._load_text_pipeline()
        limit = TokenLimit("text_encoder", pipe.tokenizer, length)
        (texts,) = self._fit_prompts(prompts, limit)
        tokens, mask, _, _ = pipe.encode_prompt(
            texts, False, device=self.device, max_sequence_length=length
        )
        return masked_condition(tokens, mask)

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        b, c, h, w = xt.shape
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.transformer.use_additional_conditions:
            factor = self.image_size[0] // self.shape[1]
            sizes = {
                "resolution": xt.new_tensor([[h * factor, w * factor]]).repeat(b, 1),
                "aspect_ratio": xt.new_full((b, 1), h / w),
            }
        output = self._run_network(
            xt,
            condition.data,
            self.schedule.timestep_index(t),
            sizes,
            encoder_attention_mask=condition.mask,
        )
        return output[:, :c]
