"""Flux.2 dev and klein: a flow transformer on latents of 16 x 16 pixels.

Dev is conditioned on the tokens of Mistral 3 and takes a guidance scale, klein on those of Qwen 3.
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ProcessorMixin

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.prompt_limits import limit_after
from limbeck.priors.scheduler_config import read_flow_schedule

#: Height and width of the autoencoder's latents: the files have no size; diffusers' pipeline takes
#: this one.
_LATENT_SIZE = 128
_TOKENS = 512  #: the default of diffusers' pipelines, with those of the chat template
_SAMPLER_STEPS = 50  #: the same; the shift of the pipelines' sampler depends on it


class Flux2Base(LatentDiffusion):
    """What dev and klein have in common.

    x0 is what the network sees: blocks of 2 x 2 latents as channels, each with mean 0 and variance
    1 by the statistics in the autoencoder. As in the pipelines, padding of the text is not masked.
    """

    network_name = "transformer"
    autoencoders = (AutoencoderKLFlux2,)
    schedule: RectifiedFlowSchedule

    @property
    def takes_guidance(self) -> bool:
        return self._takes_guidance

    def _load(self) -> None:
        self.prediction_type = "flow"
        config = self.files.full_config(Flux2Transformer2DModel, self.network_name)
        out_channels = None if config["out_channels"] is None else config["in_channels"]
        self._require_config(config, patch_size=1, out_channels=out_channels)
        self._takes_guidance = bool(config["guidance_embeds"])
        self.network = self._load_frozen_network(Flux2Transformer2DModel)
        factor = 2 * self._load_vae(config["in_channels"] // 4)
        self._set_shapes(_LATENT_SIZE // 2, factor, factor, config["in_channels"])
        num_tokens = self.shape[1] * self.shape[2]
        mu = compute_empirical_mu(num_tokens, _SAMPLER_STEPS)
        self.schedule = read_flow_schedule(self.files, num_tokens, ends_at_last=False, mu=mu)
        embedding = self.model.guidance_embedding
        self._guidance = 4.0 if embedding is None else embedding

    def _set_latent_scale(self, config: Any, place: str) -> None:
        statistics = self.vae.bn
        std = (statistics.running_var.float() + config["batch_norm_eps"]).sqrt()
        self.latent_shift = statistics.running_mean.float().view(1, -1, 1, 1).to(self.device)
        self.latent_scale = 1 / std.view(1, -1, 1, 1).to(self.device)

    @abc.abstractmethod
    def _chat(self, pipe: Any) -> tuple[Any, str]:
        """The tokenizer of text, and the chat in which a prompt ``{}`` is encoded."""

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline()
        tokenizer, chat = self._chat(pipe)
        limit = limit_after(chat.partition("{}")[0], tokenizer, _TOKENS)
        (texts,) = self._fit_prompts(prompts, limit)
        tokens, _ = pipe.encode_prompt(texts, self.device, max_sequence_length=_TOKENS)
        return Condition(tokens.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        b, _, h, w = xt.shape
        length = condition.data.shape[1]
        # positions are frame, row, column and index in the text
        text_ids = torch.zeros(length, 4, device=xt.device)  # 16 bits do not hold all positions
        text_ids[:, 3] = torch.arange(length, device=xt.device)
        image_ids = torch.zeros(h, w, 4, device=xt.device)
        image_ids[:, :, 1] = torch.arange(h, device=xt.device)[:, None]
        image_ids[:, :, 2] = torch.arange(w, device=xt.device)
        guidance = None
        if self.takes_guidance:
            guidance = torch.full((b,), self._guidance, device=xt.device)
        output = self._run_network(
            xt.flatten(2).mT,
            condition.data,
            self.schedule.sigma(t).to(xt),
            image_ids.view(-1, 4),
            text_ids,
            guidance,
        )
        return output.mT.reshape(xt.shape)

    def _normalize(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        return super()._normalize(nn.functional.pixel_unshuffle(latents, 2))

    def _denormalize(self, x0: Float[Tensor, "b d v u"]) -> Float[Tensor, "b c y x"]:
        return nn.functional.pixel_shuffle(super()._denormalize(x0), 2)


class Flux2(Flux2Base):
    """A pipeline in the layout of Flux.2 dev, whose guidance is an input of the network."""

    pipeline_name = "Flux2Pipeline"

    def _chat(self, pipe: Any) -> tuple[Any, str]:
        messages = format_input(["{}"], pipe.system_message)
        (chat,) = pipe.tokenizer.apply_chat_template(messages, tokenize=False)
        is_processor = isinstance(pipe.tokenizer, ProcessorMixin)  # of text and images
        return pipe.tokenizer.tokenizer if is_processor else pipe.tokenizer, chat


class Flux2Klein(Flux2Base):
    """A pipeline in the layout of Flux.2 klein."""

    pipeline_name = "Flux2KleinPipeline"

    def _chat(self, pipe: Any) -> tuple[Any, str]:
        messages = [{"role": "user", "content": "{}"}]
        chat = pipe.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return pipe.tokenizer, chat
