"""SJC, score Jacobian chaining: Wang et al. 2022 (arXiv 2212.00774), perturb-and-average scoring."""

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
    """(x - D(x + lambda n; lambda)) / lambda, lambda = sigma_t / alpha_t, D the denoiser at that noise level.

    guidance: s of the denoiser, as everywhere. var_red: subtract the noise that was added; without it the direction is
    (x + lambda n - D) / lambda, of the same mean and with the noise of eps_hat.
    """

    guidance: float = 100.0
    var_red: bool = True

    bibtex = """@inproceedings{wang2023sjc, title={Score Jacobian Chaining: Lifting Pretrained 2D Diffusion Models for 3D
  Generation}, author={Wang, Haochen and Du, Xiaodan and Li, Jiahao and Yeh, Raymond A. and Shakhnarovich, Greg},
  booktitle={CVPR}, year={2023}}"""
    passes = "2 (1 at guidance 1)"

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        # D = x_t / alpha - lambda eps_hat, so x - D = lambda (eps_hat - n): the form without a division, good at every t
        eps = guided_prediction(prior, sample.xt, sample.t, sample.conditions, self.guidance).eps
        return eps - sample.eps if self.var_red else eps
