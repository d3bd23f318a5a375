"""DDS, delta denoising score: Hertz et al. 2023 (arXiv 2304.07090), eq. 4."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod


@dataclass(frozen=True)
class DDS(EditMethod):
    """eps_hat_s(x_t, t, y) - eps_hat_s(x_t of the source, t, y of the source), of one eps and one t.

    guidance: s of both predictions.
    """

    bibtex = """@inproceedings{hertz2023delta, title={Delta Denoising Score}, author={Hertz, Amir and Aberman, Kfir and
  Cohen-Or, Daniel}, booktitle={ICCV}, year={2023}}"""
    passes = "4 in one call (2 at guidance 1)"

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        return self.gap(prior, sample)
