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
from limbeck.distillation.batching import apply_per_prompt
from limbeck.distillation.features.base import Features
from limbeck.distillation.features.identity import IdentityFeatures
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.kernels import PromptGroups, log_kernel, repulsion
from limbeck.methods.base import Method


@dataclass(frozen=True)
class Repulsive(Method[PromptGroups]):
    """Repulsive SD: SDS + gamma sigma_t grad_{x_i} E, which drives particles of a prompt apart.

    Attributes:
        guidance: guidance scale s of SDS.
        gamma: strength of the repulsion.
        energy: E of particle i with features f. log: log sum_{j != i} k(f_i, f_j), as in the
            authors' code; sum: sum_{j != i} k(f_i, f_j), which vanishes for distant particles.
        features: features f by which particles are compared.
    """

    guidance: float = 7.5
    gamma: float = 40.0
    energy: Literal["log", "sum"] = "log"
    features: Features = field(default_factory=IdentityFeatures)

    bibtex = """@inproceedings{zilberstein2025repulsive,
  title={Repulsive Latent Score Distillation for Solving Inverse Problems},
  author={Zilberstein, Nicolas and Mardani, Morteza and Segarra, Santiago},
  booktitle={ICLR},
  year={2025}
}"""
    passes = "2 (1 at guidance 1)"
    backward = "the features, where they are not x0 itself"

    def init(self, prior: Prior, setup: SetupContext) -> PromptGroups:
        return PromptGroups(setup)

    def energy_gradient(self, f: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Gradient of E_i in f_i, for the particles of one prompt."""
        if len(f) == 1:
            return torch.zeros_like(f)
        log_k, h = log_kernel(f)
        log_k = log_k.fill_diagonal_(-torch.inf)  # the sum is over j != i
        weight = log_k.softmax(1) if self.energy == "log" else log_k.exp()
        return repulsion(weight, f, h)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: PromptGroups
    ) -> Float[Tensor, "b ..."]:
        xt, t, eps = inputs.xt, inputs.t, inputs.eps
        sds = guided_prediction(prior, xt, t, inputs.conditions, self.guidance).eps - eps
        with torch.enable_grad():
            x = inputs.x0.detach().requires_grad_()
            f = self.features(prior, x)
            grad_f = apply_per_prompt(state, inputs, self.energy_gradient, f.detach())
            grad_x = torch.autograd.grad(f, x, grad_outputs=grad_f)[0]
        return sds + self.gamma * expand(inputs.schedule.sigma(t), sds) * grad_x
