"""SDEdit: Meng et al. 2021 (arXiv 2108.01073), algorithm 1, with DDIM on the way down. Nothing is optimised; the baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod


@dataclass(frozen=True)
class SDEdit(EditMethod):
    """x - x0_hat_K, x0_hat_K what K guided DDIM steps make of x_t: one step of rate 1 puts that in the place of the picture.

    The strength is t, that of ``--timesteps fixed``. No source text is needed.

    guidance: s of every step. k: DDIM steps, at times t, t (K-1)/K, .. t/K.
    """

    name = "sdedit"

    denoise_steps: int = 30

    bibtex = """@inproceedings{meng2022sdedit, title={SDEdit: Guided Image Synthesis and Editing with Stochastic Differential
  Equations}, author={Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and Zhu, Jun-Yan and Ermon,
  Stefano}, booktitle={ICLR}, year={2022}}"""
    passes = "2K (K at guidance 1), in K calls"

    def __post_init__(self) -> None:
        if self.denoise_steps < 1:
            raise ValueError(f"k must be at least 1, not {self.denoise_steps}")

    def init(self, prior: Prior, start: SetupContext) -> Stateless:
        return Stateless()

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        told = replace(sample.conditions, denoise_steps=self.denoise_steps)
        return (
            sample.x0.detach()
            - guided_prediction(prior, sample.xt, sample.t, told, self.guidance).x0
        )
