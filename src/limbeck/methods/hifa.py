"""HiFA: Zhu et al. 2023 (arXiv 2305.18766)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import LatentAndImageGradient, StatelessMethod


@dataclass(frozen=True)
class HiFA(StatelessMethod):
    """HiFA: (x - x0_hat_K) / lambda_t, and the same of the rendered and the decoded image.

    x0_hat_K is the result of K guided DDIM steps from x_t.

    Attributes:
        guidance: guidance scale s of every step.
        denoise_steps: K, DDIM steps at the times t, t (K-1)/K .. t/K. 1 is SDS.
        lambda_rgb: weight of the loss on decoded images. 0 decodes nothing.
    """

    name = "hifa"

    guidance: float = 100.0
    denoise_steps: int = 4
    lambda_rgb: float = 0.01

    bibtex = """@inproceedings{zhu2024hifa,
  title={HiFA: High-fidelity Text-to-3D Generation with Advanced Diffusion Guidance},
  author={Zhu, Junzhe and Zhuang, Peiye and Koyejo, Sanmi},
  booktitle={ICLR},
  year={2024}
}"""
    passes = "2K (K at guidance 1), in K calls; the decoder once, of latents twice"
    backward = "decoder (of latents)"

    def __post_init__(self) -> None:
        if self.denoise_steps < 1:
            raise ValueError(f"denoise_steps must be at least 1, not {self.denoise_steps}")
        if not self.lambda_rgb >= 0:
            raise ValueError(f"lambda_rgb must be at least 0, not {self.lambda_rgb}")

    def unused_options(self) -> dict[str, str]:
        return {"denoise_steps": "use its own number of them, --method.denoise-steps"}

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."] | LatentAndImageGradient:
        x, t, schedule = inputs.x0.detach(), inputs.t, inputs.schedule
        conditions = replace(inputs.conditions, denoise_steps=self.denoise_steps)
        x0_hat = guided_prediction(prior, inputs.xt, t, conditions, self.guidance).x0
        inverse_lambda = schedule.alpha(t) / schedule.sigma(t)
        latent_term = expand(inverse_lambda, x) * (x - x0_hat)
        if self.lambda_rgb == 0:
            return latent_term
        with torch.no_grad():
            decoded = prior.decode(x0_hat)
        if inputs.image is not None:
            rgb_weight = self.lambda_rgb * expand(inverse_lambda, decoded)
            image_term = rgb_weight * (inputs.image.detach() - decoded)
            return LatentAndImageGradient(latent_term, image_term)
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            loss = 0.5 * (prior.decode(leaf) - decoded).square().sum()
            grad = torch.autograd.grad(loss, leaf)[0]
        return latent_term + self.lambda_rgb * expand(inverse_lambda, grad) * grad
