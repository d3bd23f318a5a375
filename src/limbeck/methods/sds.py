"""SDS, score distillation sampling: DreamFusion (Poole et al. 2022, arXiv 2209.14988), eq. 3."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class SDS(StatelessMethod):
    """eps_hat_s(x_t, t, y) - eps.

    guidance: s of eps_null + s (eps_y - eps_null); the paper's omega is s - 1, its 100 our 101.
    """

    guidance: float = 100.0

    bibtex = """@article{poole2022dreamfusion, title={DreamFusion: Text-to-3D using 2D Diffusion},
  author={Poole, Ben and Jain, Ajay and Barron, Jonathan T. and Mildenhall, Ben}, journal={arXiv:2209.14988}, year={2022}}"""
    passes = "2 (1 at guidance 1)"

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        return (
            guided_prediction(prior, sample.xt, sample.t, sample.conditions, self.guidance).eps
            - sample.eps
        )
