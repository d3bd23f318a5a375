"""HiFA: Zhu et al. 2023, High-fidelity Text-to-3D Generation with Advanced Diffusion Guidance (arXiv 2305.18766)."""

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
    """(x - x0_hat_K) / lambda_t, x0_hat_K the picture that K guided DDIM steps make of x_t, lambda_t = sigma_t / alpha_t; and the
    same of the picture that is seen and the decoded x0_hat_K.

    guidance: s of every step. k: steps, at times t, t (K-1)/K, .. t/K; 1 is SDS. image: weight of the decoded pictures; 0 decodes
    nothing.
    """

    name = "hifa"

    guidance: float = 100.0
    denoise_steps: int = 4
    lambda_rgb: float = 0.01

    bibtex = """@inproceedings{zhu2024hifa, title={HiFA: High-fidelity Text-to-3D Generation with Advanced Diffusion Guidance},
  author={Zhu, Junzhe and Zhuang, Peiye and Koyejo, Sanmi}, booktitle={ICLR}, year={2024}}"""
    passes = "2K (K at guidance 1), in K calls; the decoder once, of latents twice"
    backward = "decoder (of latents)"

    def __post_init__(self) -> None:
        if self.denoise_steps < 1 or not self.lambda_rgb >= 0:
            raise ValueError(
                f"k must be at least 1 and image must not be negative, not k {self.denoise_steps}, image {self.lambda_rgb}"
            )

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."] | LatentAndImageGradient:
        schedule, x = sample.schedule, sample.x0.detach()
        said = guided_prediction(
            prior,
            sample.xt,
            sample.t,
            replace(sample.conditions, denoise_steps=self.denoise_steps),
            self.guidance,
        )
        weigh = schedule.alpha(sample.t) / schedule.sigma(sample.t)
        latent = expand(weigh, x) * (x - said.x0)
        if self.lambda_rgb == 0:
            return latent
        with torch.no_grad():
            goal = prior.decode(said.x0)
        if sample.image is not None:
            return LatentAndImageGradient(
                latent, self.lambda_rgb * expand(weigh, goal) * (sample.image.detach() - goal)
            )
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            half = 0.5 * (prior.decode(leaf) - goal).square().sum()
            back = torch.autograd.grad(half, leaf)[0]
        return latent + self.lambda_rgb * expand(weigh, back) * back
