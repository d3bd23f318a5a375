"""VSD, variational score distillation: ProlificDreamer (Wang et al. 2023, arXiv 2305.16213), eq. 8 and algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import apply_guidance, denoise_multistep, required_conditions
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.inputs import StepInputs
from limbeck.methods.base import CriticMethod


@dataclass(frozen=True)
class VSD(CriticMethod):
    """eps_hat_s(x_t, t, y) - eps_phi(x_t, t, y), phi a denoiser of the particles.

    guidance: s of the prior. critic_guidance: the same of phi; 1 is one pass. critic: what phi is and how it learns.
    """

    guidance: float = 7.5
    critic_guidance: float = 1.0
    critic: CriticConfig = field(default_factory=AutoCritic)

    bibtex = """@inproceedings{wang2023prolificdreamer, title={ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation
  with Variational Score Distillation}, author={Wang, Zhengyi and Lu, Cheng and Wang, Yikai and Bao, Fan and Li, Chongxuan and
  Su, Hang and Zhu, Jun}, booktitle={NeurIPS}, year={2023}}"""
    passes = "3 + 1 with backward (low-rank critic: the 3 in one call)"

    def __call__(self, prior: Prior, sample: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        state.observe(sample)
        told, own = sample.conditions, sample.conditions.pos_and_null
        said, phi = state.predict_both(
            prior,
            sample,
            required_conditions(told, self.guidance),
            required_conditions(own, self.critic_guidance),
        )
        first = apply_guidance(told, said, self.guidance)
        eps = denoise_multistep(prior, first, sample.xt, sample.t, told, self.guidance).eps
        return eps - apply_guidance(own, phi, self.critic_guidance).eps
