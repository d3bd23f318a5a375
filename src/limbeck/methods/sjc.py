"""SJC, score Jacobian chaining: Wang et al. 2022 (arXiv 2212.00774)."""

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
class SJC(StatelessMethod):
    """Score Jacobian chaining: (x - D(x + lambda_t n; lambda_t)) / lambda_t, D the denoiser.

    This is the perturb-and-average scoring of the paper.

    Attributes:
        guidance: guidance scale s of the denoiser.
        var_red: subtract the added noise n. Without it the direction is (x + lambda_t n - D) /
            lambda_t, which has the same mean and the noise of eps_hat.
    """

    guidance: float = 100.0
    var_red: bool = True

    bibtex = """@inproceedings{wang2023sjc,
  title={Score Jacobian Chaining: Lifting Pretrained 2D Diffusion Models for 3D Generation},
  author={Wang, Haochen and Du, Xiaodan and Li, Jiahao and Yeh, Raymond A. and
    Shakhnarovich, Greg},
  booktitle={CVPR},
  year={2023}
}"""
    passes = "2 (1 at guidance 1)"

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        xt, t, n = inputs.xt, inputs.t, inputs.eps
        eps_hat = guided_prediction(prior, xt, t, inputs.conditions, self.guidance).eps
        # D = x_t / alpha_t - lambda_t eps_hat, so (x - D) / lambda_t = eps_hat - n: no division by
        # an alpha_t or lambda_t that may be 0
        return eps_hat - n if self.var_red else eps_hat
