"""RFDS-Rev, rectified flow distillation with reversed noise: Yang et al. 2024 (arXiv 2406.03293)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.noise import PredictedNoise
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod
from limbeck.methods.rfds import RFDS


@dataclass(frozen=True)
class RFDSRev(StatelessMethod):
    """RFDS at the noise the prior sees in x_t: eps' = eps + (1 - t) (v(x_t, t, y) - (eps - x)) = eps_hat(x_t, t, y).

    guidance: s of RFDS. rev_guidance: s of the look at the noise. rounds: looks at the noise, one in the paper.
    """

    guidance: float = 50.0
    rev_guidance: float = 1.0
    iterations: int = 1

    bibtex = RFDS.bibtex
    passes = "2 + 1 per round, in 1 + rounds calls"

    def __post_init__(self) -> None:
        PredictedNoise(self.rev_guidance, self.iterations)  # the same bounds

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        eps = PredictedNoise(self.rev_guidance, self.iterations).refine(prior, sample)
        return RFDS(self.guidance)(prior, replace(sample, eps=eps), state)
