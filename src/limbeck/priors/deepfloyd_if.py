"""DeepFloyd IF, stage I: a U-Net on pixels, conditioned on T5 tokens."""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.diffusion.tensors import to_unit_range
from limbeck.priors.diffusers_base import DiffusersPrior
from limbeck.priors.prompt_limits import TokenLimit
from limbeck.priors.scheduler_config import read_discrete_schedule

_T5_TOKENS = 77  #: to which diffusers' pipeline cuts


class DeepFloydIF(DiffusersPrior):
    """A pipeline in the layout of the first stage of DeepFloyd IF. x0 is the image in [-1, 1].

    The learned variance is not used: it belongs to ancestral sampling, not to the score.
    """

    pipeline_name = "IFPipeline"
    network_name = "unet"
    schedule: DiscreteSchedule

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(UNet2DConditionModel, self.network_name)
        self._require_config(config, in_channels=3, class_embed_type=None, time_cond_proj_dim=None)
        if config["out_channels"] not in (3, 6):  # without and with a learned variance
            self._require_config(config, out_channels=6)
        self.unet = self.network = self._load_frozen_network(UNet2DConditionModel)
        self._set_shapes(config["sample_size"], 1, 2 ** (len(config["block_out_channels"]) - 1), 3)

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline(requires_safety_checker=False)
        limit = TokenLimit("text_encoder", pipe.tokenizer, _T5_TOKENS)
        (texts,) = self._fit_prompts(prompts, limit)
        tokens, _ = pipe.encode_prompt(texts, False, device=self.device)
        return Condition(tokens.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        return self._run_network(xt, self.schedule.timestep_index(t), condition.data)[:, :3]

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return image.float() * 2 - 1

    def decode(self, x0: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return to_unit_range(x0.float() / 2 + 0.5)
