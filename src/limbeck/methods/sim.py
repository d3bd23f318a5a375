"""SIM, score implicit matching (Luo et al. 2024, arXiv 2410.16794), in the x0 form of Dive3D."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.score_differences import gradient_through_networks
from limbeck.methods.base import CriticMethod


@dataclass(frozen=True)
class SIM(CriticMethod):
    """Score implicit matching: d/dx0 of <y, psi - x0> / sqrt(|y|^2 + c^2), y = f - psi.

    f is the prior's and psi the critic's prediction of x0.

    Attributes:
        guidance: guidance scale s of the prior.
        critic_guidance: guidance scale of the critic. 1 costs one pass, others two.
        c: constant of the pseudo-Huber distance, in units of the norm of x0.
        critic: what the critic is and how it is trained.
    """

    name = "sim"

    guidance: float = 4.0
    critic_guidance: float = 1.0
    c: float = field(default=1e-3, metadata={"minimum": 0})
    critic: CriticConfig = field(default_factory=NetworkCritic)

    bibtex = """@inproceedings{luo2024onestep,
  title={One-Step Diffusion Distillation through Score Implicit Matching},
  author={Luo, Weijian and Huang, Zemin and Geng, Zhengyang and Kolter, J. Zico and
    Qi, Guo-jun},
  booktitle={NeurIPS},
  year={2024}
}"""
    passes = "2 of the prior and 1 of the critic, differentiated; 1 with backward of the critic"

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """No weight of t, as in the code of Dive3D."""
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
        y = f - psi
        # a critic that starts as the prior has y = 0 without guidance: the floor gives 0, not NaN
        square = (y.flatten(1).square().sum(1) + self.c**2).clamp_min(torch.finfo(y.dtype).tiny)
        return (y * expand(square.rsqrt(), y) * (psi - x0)).flatten(1).sum(1)
