"""InstructPix2Pix: Stable Diffusion that sees an image and changes it as the prompt instructs.

References:
    Brooks et al. 2023, arXiv 2211.09800.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.model_options import IMAGE_GUIDANCE
from limbeck.priors.scheduler_config import read_discrete_schedule
from limbeck.priors.stable_diffusion import StableDiffusion


class InstructPix2Pix(StableDiffusion):
    """An ``InstructionPrior``: the latents of an image are further channels of x_t.

    They are not scaled as x_t is. Rows without an image get zeros. Texts and LoRA files are those
    of the pipeline of Stable Diffusion.

    Attributes:
        image_guidance: guidance scale of the image.
    """

    takes_adapters = False
    takes_image_guidance = True

    def _load(self) -> None:
        scale = self.model.image_guidance
        self.image_guidance = IMAGE_GUIDANCE if scale is None else scale
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(UNet2DConditionModel, self.network_name)
        self._require_config(
            config,
            in_channels=2 * config["out_channels"],
            addition_embed_type=None,
            class_embed_type=None,
            time_cond_proj_dim=None,
        )
        self.unet = self.network = self._load_frozen_network(UNet2DConditionModel)
        self._load_other_parts(config)

    def source_latents(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """See ``InstructionPrior``."""
        return self._denormalize(x0)

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        image = torch.zeros_like(xt) if condition.image is None else condition.image
        inputs = torch.cat([xt, image.to(xt)], 1)
        return self._run_unet(inputs, self.schedule.timestep_index(t), condition)
