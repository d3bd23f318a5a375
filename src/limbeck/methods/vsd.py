"""VSD, variational score distillation: ProlificDreamer (Wang et al. 2023, arXiv 2305.16213), eq. 8.

Algorithm 1 of the paper alternates this direction with training of the critic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.batching import predict_prior_and_critic
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.inputs import StepInputs
from limbeck.methods.base import CriticMethod


@dataclass(frozen=True)
class VSD(CriticMethod):
    """Variational score distillation: eps_pretrain - eps_phi, phi a denoiser of the particles.

    Attributes:
        guidance: guidance scale s of the prior, eps_pretrain = eps_hat_s(x_t, t, y).
        critic_guidance: guidance scale of the critic eps_phi. 1 costs one pass, others two.
        critic: what the critic is and how it is trained.
    """

    guidance: float = 7.5
    critic_guidance: float = 1.0
    critic: CriticConfig = field(default_factory=AutoCritic)

    bibtex = """@inproceedings{wang2023prolificdreamer,
  title={ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with Variational Score
    Distillation},
  author={Wang, Zhengyi and Lu, Cheng and Wang, Yikai and Bao, Fan and Li, Chongxuan and
    Su, Hang and Zhu, Jun},
  booktitle={NeurIPS},
  year={2023}
}"""
    passes = "3 + 1 with backward (LoRA critic: the 3 in one call)"

    def __call__(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        eps_pretrain, eps_phi = predict_prior_and_critic(
            prior, state, inputs, self.guidance, self.critic_guidance
        )
        return eps_pretrain - eps_phi
