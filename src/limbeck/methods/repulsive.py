"""RSD, repulsive score distillation: Zilberstein et al. 2024 (arXiv 2406.16683)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.features.base import Features
from limbeck.distillation.features.identity import IdentityFeatures
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.kernels import PromptGroups, log_kernel, repulsion
from limbeck.methods.base import Method


@dataclass(frozen=True)
class Repulsive(Method[PromptGroups]):
    """eps_hat_s(x_t, t, y) - eps + gamma sigma_t grad_{x_i} E: SDS, and particles of a prompt push each other apart.

    guidance: s of the prediction. gamma: strength. energy: E, log sum_j k(f_i, f_j) over the others (log, the authors' code) or
    sum_j k(f_i, f_j) (sum, which lets go of particles that are far apart). features: f, what particles are compared by.
    """

    guidance: float = 7.5
    gamma: float = 40.0
    energy: Literal["log", "sum"] = "log"
    features: Features = field(default_factory=IdentityFeatures)

    bibtex = """@inproceedings{zilberstein2025repulsive, title={Repulsive Latent Score Distillation for Solving Inverse Problems},
  author={Zilberstein, Nicolas and Mardani, Morteza and Segarra, Santiago}, booktitle={ICLR}, year={2025}}"""
    passes = "2 (1 at guidance 1)"
    backward = "the features, where they are not x0 itself"

    def init(self, prior: Prior, start: SetupContext) -> PromptGroups:
        return PromptGroups(start)

    def __call__(
        self, prior: Prior, sample: StepInputs, state: PromptGroups
    ) -> Float[Tensor, "b ..."]:
        sds = (
            guided_prediction(prior, sample.xt, sample.t, sample.conditions, self.guidance).eps
            - sample.eps
        )
        with torch.enable_grad():
            x0 = sample.x0.detach().requires_grad_()
            f = self.features(prior, x0)
            pushes = torch.zeros_like(f)
            for rows in state.rows_by_prompt(sample.particle, sds.device):
                if len(rows) > 1:
                    log_k, h = log_kernel(f[rows].detach())
                    near = log_k.fill_diagonal_(-torch.inf)
                    pushes[rows] = repulsion(
                        near.softmax(1) if self.energy == "log" else near.exp(), f[rows].detach(), h
                    )
            back = torch.autograd.grad((f * pushes).sum(), x0)[0]
        return sds + self.gamma * expand(sample.schedule.sigma(sample.t), sds) * back
