"""Stable Diffusion 3 and 3.5: a flow transformer on latents, told the tokens of two CLIPs and T5, and a pooled text."""

from __future__ import annotations

from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.latent_diffusion import LatentDiffusion
from limbeck.priors.scheduler_config import read_flow_schedule


class SD3(LatentDiffusion):
    """Transformer, autoencoder and prompt cache of a pipeline in the layout of Stable Diffusion 3. T5 may be absent."""

    pipeline_name = "StableDiffusion3Pipeline"
    network_name = "transformer"
    schedule: RectifiedFlowSchedule

    def _load(self) -> None:
        self.prediction_type = "flow"
        config = self.files.full_config(SD3Transformer2DModel, self.network_name)
        self._require_config(config, out_channels=config["in_channels"])
        self.network = self._load_frozen_network(SD3Transformer2DModel)
        factor = self._load_vae(config["in_channels"])
        self._set_shapes(
            config["sample_size"], factor, config["patch_size"] * factor, config["in_channels"]
        )
        self.schedule = read_flow_schedule(
            self.files, (self.shape[1] // config["patch_size"]) ** 2, ends_at_last=True
        )

    def _encode(self, prompts: list[str]) -> Condition:
        pipe = self._load_text_pipeline()
        # the width that zeros take where there is no T5 is asked of the network
        pipe.register_modules(transformer=self.network)
        tokens, _, pooled, _ = pipe.encode_prompt(
            prompts, None, None, self.device, do_classifier_free_guidance=False
        )
        return Condition(tokens.float(), None, pooled.float())

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b c h w"]:
        time = 1000 * self.schedule.sigma(t).float()
        return self._run_network(xt, told.data, told.pooled, time)
