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
    """Score distillation sampling: eps_hat_s(x_t, t, y) - eps.

    Attributes:
        guidance: guidance scale s. The paper's omega is s - 1: its 100 is 101 here.
    """

    guidance: float = 100.0

    bibtex = """@article{poole2022dreamfusion,
  title={DreamFusion: Text-to-3D using 2D Diffusion},
  author={Poole, Ben and Jain, Ajay and Barron, Jonathan T. and Mildenhall, Ben},
  journal={arXiv:2209.14988},
  year={2022}
}"""
    passes = "2 (1 at guidance 1)"

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        xt, t, eps = inputs.xt, inputs.t, inputs.eps
        eps_hat = guided_prediction(prior, xt, t, inputs.conditions, self.guidance).eps
        return eps_hat - eps
