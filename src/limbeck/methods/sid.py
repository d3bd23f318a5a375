"""SiD, score identity distillation (Zhou et al. 2024, arXiv 2404.04057)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.score_differences import gradient_through_networks
from limbeck.methods.base import CriticMethod

_MIN_SIZE = 1e-5  #: floor of w in the authors' code


@dataclass(frozen=True)
class SiD(CriticMethod):
    """Score identity: d/dx0 of (f - psi) ((f - x0) - a (f - psi)) / w, for one-step generators.

    f is the prior's and psi the critic's prediction of x0, w the mean of |x0 - f|.

    Attributes:
        guidance: guidance scale s of the prior.
        critic_guidance: guidance scale of the critic. 1 costs one pass, others two.
        a: weight of the square |f - psi|^2.
        critic: what the critic is and how it is trained.
    """

    name = "sid"

    guidance: float = 4.0
    critic_guidance: float = 1.0
    a: float = 1.0
    critic: CriticConfig = field(default_factory=NetworkCritic)

    bibtex = """@inproceedings{zhou2024score,
  title={Score Identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion
    Models for One-Step Generation},
  author={Zhou, Mingyuan and Zheng, Huangjie and Wang, Zhendong and Yin, Mingzhang and
    Huang, Hai},
  booktitle={ICML},
  year={2024}
}"""
    passes = "2 of the prior and 1 of the critic, differentiated; 1 with backward of the critic"

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """The loss has its own weight."""
        return {"weight": "uniform"}

    backward = "the networks of prior and critic"

    def __call__(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        return gradient_through_networks(
            prior, state, inputs, self.guidance, self.critic_guidance, self.loss
        )

    def loss(
        self, x0: Float[Tensor, "b ..."], f: Float[Tensor, "b ..."], psi: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b"]:
        """The loss of each row.

        Args:
            x0: the samples.
            f: the prior's prediction of them.
            psi: the critic's prediction of them.
        """
        w = (x0 - f).detach().abs().flatten(1).mean(1).clamp_min(_MIN_SIZE)
        return ((f - psi) * ((f - x0) - self.a * (f - psi))).flatten(1).sum(1) / w
