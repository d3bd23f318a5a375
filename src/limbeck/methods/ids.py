"""IDS, identity-preserving distillation sampling: Kim et al. 2025 (arXiv 2502.19930)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source


@dataclass(frozen=True)
class IDS(EditMethod):
    """Identity-preserving DS: DDS with the noise eps* that the source itself has.

    eps* = (z - alpha_t x_source) / sigma_t, where z is moved K times down the gradient of
    |x_source - x0_hat_s(z, t, y_source)| from x_t of the source.

    Attributes:
        guidance: guidance scale s of all predictions.
        regularizations: K, gradient steps of z; 0: DDS.
        regularization_lr: length of these steps, at least 0.
    """

    name = "ids"

    regularizations: int = field(default=3, metadata={"minimum": 0})
    regularization_lr: float = field(default=1.0, metadata={"minimum": 0})

    bibtex = """@inproceedings{kim2025identity,
  title={Identity-preserving Distillation Sampling by Fixed-Point Iterator},
  author={Kim, SeonHwa and Kim, Jiwon and Park, Soobin and Ahn, Donghoon and Kang, Jiwon and
    Kim, Seungryong and Jin, Kyong Hwan and Cha, Eunju},
  booktitle={CVPR},
  year={2025}
}"""
    passes = "2K with backward in K calls + 4 in one call (half of both at guidance 1)"
    backward = "the network, down to its input"
    edit_recipes = {"small": {"method": {"guidance": 3.0}, "steps": 8, "lr": 1.0}}

    def source_noise(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        """eps* of each row.

        Args:
            prior: the frozen prior.
            inputs: the current step.
        """
        source, t, schedule = edit_source(inputs), inputs.t, inputs.schedule
        z = schedule.add_noise(source.x0, inputs.eps, t)
        for _ in range(self.regularizations):
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                x0_hat = guided_prediction(prior, z, t, source.conditions, self.guidance).x0
                distance = torch.linalg.vector_norm((source.x0 - x0_hat).flatten(1), dim=1)
            gradient = torch.autograd.grad(distance, z, torch.ones_like(distance))[0]
            z = z.detach() - self.regularization_lr * gradient
        # without noise, at t = 0, there is none to correct
        sigma = expand(schedule.sigma(t), z)
        moved = z - schedule.add_noise(source.x0, inputs.eps, t)
        return inputs.eps + torch.where(sigma > 0, moved / sigma, torch.zeros_like(moved))

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        corrected = replace(inputs, eps=self.source_noise(prior, inputs))
        eps_target, eps_source = self.predict_target_and_source(prior, corrected)
        return eps_target - eps_source
