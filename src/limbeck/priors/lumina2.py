"""Lumina 2: a flow transformer on latents, conditioned on the masked tokens of Gemma 2."""

from __future__ import annotations

import torch
from diffusers import Lumina2Transformer2DModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition, masked_condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import limit_after
from limbeck.priors.scheduler_config import read_flow_schedule

_TOKENS = 256  #: the default of diffusers' pipeline, with those of the system prompt


class Lumina2(LatentDiffusion):
    """A pipeline in the layout of Lumina-Image 2.0.

    As in the pipeline, a system prompt stands before every prompt but the empty one. The network
    takes the share of the image, 1 - sigma, and predicts x0 - eps, the negative of the flow.
    """

    pipeline_name = "Lumina2Pipeline"
    network_name = "transformer"
    schedule: RectifiedFlowSchedule

    def _check_runtime(self) -> None:
        super()._check_runtime()
        if self.runtime.compile != "off":
            raise ValueError(
                f"compile {self.runtime.compile}: the network of Lumina 2 reads the lengths of its "
                "texts on the CPU, which a compiled graph cannot: leave out --runtime.compile"
            )

    def _load(self) -> None:
        self.prediction_type = "flow"
        config = self.files.full_config(Lumina2Transformer2DModel, self.network_name)
        channels, patch_size = config["in_channels"], config["patch_size"]
        if config["out_channels"] is not None:
            self._require_config(config, out_channels=channels)
        self.network = self._load_frozen_network(Lumina2Transformer2DModel)
        factor = self._load_vae(channels)
        self._set_shapes(config["sample_size"], factor, patch_size * factor, channels)
        # the pipeline computes a dynamic shift from the channels, not from the tokens
        self.schedule = read_flow_schedule(self.files, channels, ends_at_last=False)

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline()
        limit = limit_after(f"{pipe.system_prompt} <Prompt Start> ", pipe.tokenizer, _TOKENS)
        (texts,) = self._fit_prompts(prompts, limit)
        tokens, mask, null, null_mask = pipe.encode_prompt(
            texts,
            negative_prompt=[""] * len(texts),
            device=self.device,
            max_sequence_length=_TOKENS,
        )
        is_empty = torch.tensor([not text for text in texts], device=self.device)
        return masked_condition(null, null_mask).where(is_empty, masked_condition(tokens, mask))

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        time = self.schedule.alpha(t).to(xt)
        return -self._run_network(xt, time, condition.data, condition.mask)
