"""RSD, repulsive score distillation: Zilberstein et al. 2024 (arXiv 2406.16683)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.feature import Features
from limbeck.features import Itself
from limbeck.kernel import Grouped, log_kernel, push
from limbeck.method import Method, Sample, Start
from limbeck.prior import Prior, guided
from limbeck.schedule import expand


@dataclass(frozen=True)
class Repulsive(Method[Grouped]):
    """eps_hat_s(x_t, t, y) - eps + gamma sigma_t grad_{x_i} E: SDS, and particles of a prompt push each other apart.

    guidance: s of the prediction. gamma: strength. energy: E, log sum_j k(f_i, f_j) over the others (log, the authors' code) or
    sum_j k(f_i, f_j) (sum, which lets go of particles that are far apart). features: f, what particles are compared by.
    """

    guidance: float = 7.5
    gamma: float = 40.0
    energy: Literal["log", "sum"] = "log"
    features: Features = field(default_factory=Itself)

    bibtex = """@inproceedings{zilberstein2025repulsive, title={Repulsive Latent Score Distillation for Solving Inverse Problems},
  author={Zilberstein, Nicolas and Mardani, Morteza and Segarra, Santiago}, booktitle={ICLR}, year={2025}}"""
    passes = "2 (1 at guidance 1)"
    backward = "the features, where they are not x0 itself"

    def init(self, prior: Prior, start: Start) -> Grouped:
        return Grouped(start)

    def __call__(self, prior: Prior, sample: Sample, state: Grouped) -> Float[Tensor, "b ..."]:
        sds = guided(prior, sample.xt, sample.t, sample.told, self.guidance).eps - sample.eps
        with torch.enable_grad():
            x0 = sample.x0.detach().requires_grad_()
            f = self.features(prior, x0)
            pushes = torch.zeros_like(f)
            for rows in state.groups(sample.view, sds.device):
                if len(rows) > 1:
                    log_k, h = log_kernel(f[rows].detach())
                    near = log_k.fill_diagonal_(-torch.inf)
                    pushes[rows] = push(near.softmax(1) if self.energy == "log" else near.exp(), f[rows].detach(), h)
            back = torch.autograd.grad((f * pushes).sum(), x0)[0]
        return sds + self.gamma * expand(sample.schedule.sigma(sample.t), sds) * back
