"""RFDS-Rev, RFDS with reversed noise: Yang et al. 2024 (arXiv 2406.03293)."""

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
    """RFDS at the noise that the prior predicts in x_t.

    eps' = eps + (1 - t) (v(x_t, t, y) - (eps - x)) = eps_hat(x_t, t, y).

    Attributes:
        guidance: guidance scale s of RFDS.
        rev_guidance: guidance scale of the predicted noise.
        iterations: how often the noise is replaced by the predicted one, at least 1 (the paper: 1).
    """

    guidance: float = 50.0
    rev_guidance: float = 1.0
    iterations: int = 1

    bibtex = RFDS.bibtex
    passes = "2 + 1 per iteration, in 1 + iterations calls"

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {self.iterations}")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, self.rev_guidance)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        eps = PredictedNoise(self.rev_guidance, self.iterations).refine(prior, inputs)
        return RFDS(self.guidance)(prior, replace(inputs, eps=eps), state)
