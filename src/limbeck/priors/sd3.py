"""Stable Diffusion 3 and 3.5: a flow transformer on latents.

It is conditioned on the tokens of two CLIP text encoders and T5, and on a pooled text.
"""

from __future__ import annotations

from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import TokenLimit, clip_limit
from limbeck.priors.scheduler_config import read_flow_schedule

_T5_TOKENS = 256  #: the default of diffusers' pipeline


class SD3(LatentDiffusion):
    """A pipeline in the layout of Stable Diffusion 3; T5 may be absent."""

    pipeline_name = "StableDiffusion3Pipeline"
    network_name = "transformer"
    schedule: RectifiedFlowSchedule

    def _load(self) -> None:
        self.prediction_type = "flow"
        config = self.files.full_config(SD3Transformer2DModel, self.network_name)
        channels, patch_size = config["in_channels"], config["patch_size"]
        self._require_config(config, out_channels=channels)
        self.network = self._load_frozen_network(SD3Transformer2DModel)
        factor = self._load_vae(channels)
        self._set_shapes(config["sample_size"], factor, patch_size * factor, channels)
        num_tokens = (self.shape[1] // patch_size) ** 2
        self.schedule = read_flow_schedule(self.files, num_tokens, ends_at_last=True)

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline()
        # without T5 its tokens are zeros, whose width the pipeline reads from the transformer
        pipe.register_modules(transformer=self.network)
        limits = [clip_limit(pipe), clip_limit(pipe, 2)]
        if pipe.text_encoder_3 is not None:
            limits.append(TokenLimit("text_encoder_3", pipe.tokenizer_3, _T5_TOKENS))
        texts, texts_2, *texts_3 = self._fit_prompts(prompts, *limits)
        tokens, _, pooled, _ = pipe.encode_prompt(
            texts,
            texts_2,
            texts_3[0] if texts_3 else None,
            self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=_T5_TOKENS,
        )
        return Condition(tokens.float(), None, pooled.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        time = 1000 * self.schedule.sigma(t).float()
        return self._run_network(xt, condition.data, condition.pooled, time)
