"""Denoising student (Luhman & Luhman 2021, arXiv 2101.02388): regression on samples of the prior.

Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.config.ranges import check_minimums
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod
from limbeck.system.random import GENERATOR_NOISE


@dataclass(frozen=True)
class DenoisingStudent(StatelessMethod):
    """Denoising student: x - DDIM(z, y), z the noise that the one-step generator made x of.

    Attributes:
        guidance: guidance scale s of the sampler.
        sampling_steps: DDIM steps K to a sample.
    """

    guidance: float = 4.0
    sampling_steps: int = 10

    bibtex = """@article{luhman2021knowledge,
  title={Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed},
  author={Luhman, Eric and Luhman, Troy},
  journal={arXiv:2101.02388},
  year={2021}
}"""
    passes = "2K (K at guidance 1), in K calls"

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """The mean squared error of the paper has no weight, as it has no t."""
        return {"weight": "uniform"}

    def __post_init__(self) -> None:
        check_minimums(self, sampling_steps=1)

    def unused_options(self) -> dict[str, str]:
        return {
            "denoise_steps": "it has its own number of them, --method.sampling-steps",
            "noise": "it takes that of the generator; leave it out",
        }

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        x0 = inputs.x0.detach()
        # the same purpose gives the generator's own numbers again
        z = to_device(inputs.rng.normal(GENERATOR_NOISE, *x0.shape[1:]), x0.device).to(x0)
        sample = sample_x0(prior, inputs.conditions, z, self.sampling_steps, self.guidance)
        return x0 - sample
