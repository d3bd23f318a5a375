"""ESD, entropic score distillation: Wang et al. 2023 (arXiv 2401.00909)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.batching import predict_prior_and_critic
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTraining, require_views
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.methods.base import CriticMethod


def _critic_with_null_rows() -> CriticConfig:
    return AutoCritic(training=CriticTraining(unconditional_prob=0.1))


@dataclass(frozen=True)
class ESD(CriticMethod):
    """Entropic SD: eps_pretrain - (lambda eps_phi(x_t, t) + (1 - lambda) eps_phi(x_t, t, c)).

    c is the view of a 3D representation, and the prompt stays in both; of images c is the prompt.

    Attributes:
        guidance: guidance scale s of the prior, eps_pretrain = eps_hat_s(x_t, t, y).
        entropy_weight: lambda in [0, 1], the weight of the entropy of the particles. 0 is VSD.
        critic: what the critic is and how it is trained; it needs rows without c too.
    """

    guidance: float = 7.5
    entropy_weight: float = 0.5
    critic: CriticConfig = field(default_factory=_critic_with_null_rows)

    bibtex = """@inproceedings{wang2024esd,
  title={Taming Mode Collapse in Score Distillation for Text-to-3D Generation},
  author={Wang, Peihao and Xu, Dejia and Fan, Zhiwen and Wang, Dilin and Mohan, Sreyas and
    Iandola, Forrest and Ranjan, Rakesh and Li, Yilei and Liu, Qiang and Wang, Zhangyang and
    Chandra, Vikas},
  booktitle={CVPR},
  year={2024}
}"""
    passes = "4 + 1 with backward (LoRA critic: the 4 in one call; 3 at entropy weight 0 or 1)"

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_weight <= 1:
            raise ValueError(f"entropy_weight must be in [0, 1], not {self.entropy_weight}")

    def init(self, prior: Prior, setup: SetupContext) -> Critic:
        critic = super().init(prior, setup)
        if any(setting.entropy_weight > 0 for setting in self.settings()):
            require_views(critic, setup)
        return critic

    def __call__(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        # lambda eps_phi(x_t, t) + (1 - lambda) eps_phi(x_t, t, c) is guidance of scale 1 - lambda
        eps_pretrain, eps_phi = predict_prior_and_critic(
            prior, state, inputs, self.guidance, critic_guidance=1 - self.entropy_weight
        )
        return eps_pretrain - eps_phi
