"""ESD, entropic score distillation: Wang et al. 2023, Taming Mode Collapse in Score Distillation (arXiv 2401.00909)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import apply_guidance, denoise_multistep, required_conditions
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTraining
from limbeck.distillation.inputs import StepInputs
from limbeck.methods.base import CriticMethod


@dataclass(frozen=True)
class ESD(CriticMethod):
    """eps_hat_s(x_t, t, y) - (lambda eps_phi(x_t, t) + (1 - lambda) eps_phi(x_t, t, c)): phi guided by 1 - lambda.

    guidance: s of the prior. entropy: lambda, the weight of the particles' entropy; 0 is VSD. critic: what phi is and how it
    learns; its null rows must be trained too.
    """

    guidance: float = 7.5
    entropy_weight: float = 0.5
    critic: CriticConfig = field(
        default_factory=lambda: AutoCritic(training=CriticTraining(unconditional_prob=0.1))
    )

    bibtex = """@inproceedings{wang2024esd, title={Taming Mode Collapse in Score Distillation for Text-to-3D Generation},
  author={Wang, Peihao and Xu, Dejia and Fan, Zhiwen and Wang, Dilin and Mohan, Sreyas and Iandola, Forrest and Ranjan, Rakesh
  and Li, Yilei and Liu, Qiang and Wang, Zhangyang and Chandra, Vikas}, booktitle={CVPR}, year={2024}}"""
    passes = "4 + 1 with backward (low-rank critic: the 4 in one call; 3 at entropy 0 or 1)"

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_weight <= 1:
            raise ValueError(f"entropy is lambda in [0, 1], not {self.entropy_weight}")

    def __call__(self, prior: Prior, sample: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        state.observe(sample)
        told, plain, own = sample.conditions, sample.conditions.pos_and_null, 1 - self.entropy_weight
        said, phi = state.predict_both(
            prior, sample, required_conditions(told, self.guidance), required_conditions(plain, own)
        )
        first = apply_guidance(told, said, self.guidance)
        return (
            denoise_multistep(prior, first, sample.xt, sample.t, told, self.guidance).eps
            - apply_guidance(plain, phi, own).eps
        )
