"""DeepFloyd IF, stage I: a U-Net on pixels, told the tokens of T5, that says the noise and its own variance."""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.priors.diffusers_base import DiffusersPrior
from limbeck.priors.scheduler_config import read_discrete_schedule


class DeepFloydIF(DiffusersPrior):
    """U-Net and prompt cache of a pipeline in the layout of IF's first stage. x0 is the picture in [-1, 1].

    Of a learned variance nothing is used: it speaks of ancestral steps and not of the score.
    """

    pipeline_name = "IFPipeline"
    network_name = "unet"
    schedule: DiscreteSchedule

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(UNet2DConditionModel, self.network_name)
        self._require_config(config, in_channels=3, class_embed_type=None, time_cond_proj_dim=None)
        if config["out_channels"] not in (3, 6):
            self._require_config(config, out_channels=6)
        self.unet = self.network = self._load_frozen_network(UNet2DConditionModel)
        self._set_shapes(config["sample_size"], 1, 2 ** (len(config["block_out_channels"]) - 1), 3)

    def _encode(self, prompts: list[str]) -> Condition:
        told, _ = self._load_text_pipeline(requires_safety_checker=False).encode_prompt(
            prompts, False, device=self.device
        )
        return Condition(told.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b c h w"]:
        return self._run_network(xt, self.schedule.timestep_index(t), told.data)[:, :3]

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return image.float() * 2 - 1

    def decode(self, x0: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (x0.float() / 2 + 0.5).clamp(0, 1)
