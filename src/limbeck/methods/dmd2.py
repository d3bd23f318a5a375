"""DMD2, improved distribution matching distillation (Yin et al. 2024, arXiv 2405.14867).

The direction is that of DMD (Yin et al. 2023, arXiv 2311.18828) as the code of DMD2 computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.batching import predict_prior_and_critic
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.discriminators.base import (
    DiscriminatedCritic,
    DiscriminatorConfig,
    judge,
)
from limbeck.distillation.discriminators.none import NoDiscriminator
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.methods.base import CriticMethod

_ROUNDINGS = 4  #: bound of the rounding of eps_real, in units of that of its largest terms


@dataclass(frozen=True)
class DMD2(CriticMethod):
    """Distribution matching: (x0_fake - x0_real) / mean |x0 - x0_real|, for one-step generators.

    x0_fake is the critic's prediction of the samples and x0_real that of the prior. With a
    discriminator the gradient of the GAN loss, softplus(-logit) at x_t, is added.

    Attributes:
        guidance: guidance scale s of the prior.
        critic_guidance: guidance scale of the critic. 1 costs one pass, others two.
        critic: what the critic is and how it is trained.
        gan_weight: weight of the GAN loss, beside the mean square over the D values of x0.
        discriminator: what the discriminator is and how it is trained; none for no GAN loss.
    """

    guidance: float = 4.0
    critic_guidance: float = 1.0
    critic: CriticConfig = field(default_factory=NetworkCritic)
    gan_weight: float = field(default=1e-3, metadata={"minimum": 0})
    discriminator: DiscriminatorConfig = field(default_factory=NoDiscriminator)

    bibtex = """@inproceedings{yin2024improved,
  title={Improved Distribution Matching Distillation for Fast Image Synthesis},
  author={Yin, Tianwei and Gharbi, Micha{\\"e}l and Park, Taesung and Zhang, Richard and
    Shechtman, Eli and Durand, Fredo and Freeman, William T.},
  booktitle={NeurIPS},
  year={2024}
}"""
    passes = "2 of the prior, 1 + 1 with backward of the critic"

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, *self.discriminator.guidance_scales)

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """The direction has its own size, so it gets no other weight."""
        return {"weight": "uniform"}

    def init(self, prior: Prior, setup: SetupContext) -> Critic:
        return self.discriminator.beside(super().init(prior, setup), prior, setup)

    def matching(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        """(x0_fake - x0_real) / mean |x0 - x0_real|.

        Args:
            prior: the frozen prior.
            inputs: the current step.
            state: the critic.
        """
        eps_real, eps_fake = predict_prior_and_critic(
            prior, state, inputs, self.guidance, self.critic_guidance
        )
        # at one x_t, x0_fake - x0_real = lambda (eps_real - eps_fake) and
        # x0 - x0_real = lambda (eps_real - eps): lambda cancels, also where alpha is nearly 0
        size = (eps_real - inputs.eps).abs().flatten(1).mean(1)
        # the prior knows the sample, up to the rounding of x_t over sigma: no direction, as NaN is
        # 0 in the authors' code
        x0, alpha = inputs.x0.detach(), inputs.schedule.alpha(inputs.t)
        sigma = expand(inputs.schedule.sigma(inputs.t), x0)
        terms = expand(alpha, x0) * x0.abs() / sigma + inputs.eps.abs()
        rounding = _ROUNDINGS * torch.finfo(inputs.xt.dtype).eps * terms.flatten(1).mean(1)
        scale = (size > rounding).to(size) / size.clamp_min(1e-30)
        return expand(scale, eps_real) * (eps_real - eps_fake)

    def __call__(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        direction = self.matching(prior, inputs, state)
        if not isinstance(state, DiscriminatedCritic):
            return direction
        _, gan_gradient = judge(state.discriminator, inputs)
        return direction + self.gan_weight * inputs.x0[0].numel() * gan_gradient
