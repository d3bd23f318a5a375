"""DDS, delta denoising score: Hertz et al. 2023 (arXiv 2304.07090), eq. 4."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source


@dataclass(frozen=True)
class DDS(EditMethod):
    """Delta denoising score: eps_hat_s(x_t, t, y) - eps_hat_s(x_t_source, t, y_source).

    Both have the same t, and the same eps unless eta is set.

    Attributes:
        guidance: guidance scale s of both predictions.
        eta: the noise of x_t is eps + eta (x - x_source), and what is compared is what each
            prediction has too much over its own noise. 0: DDS; 1: FlowEdit's inputs; in between the
            couplings of DVRF (see ``dvrf``).
    """

    eta: float = 0.0

    bibtex = """@inproceedings{hertz2023delta,
  title={Delta Denoising Score},
  author={Hertz, Amir and Aberman, Kfir and Cohen-Or, Daniel},
  booktitle={ICCV},
  year={2023}
}"""
    passes = "4 in one call (2 at guidance 1)"

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        eps_target, eps_source = self.predict_target_and_source(prior, inputs, self.eta)
        if self.eta == 0:
            return eps_target - eps_source
        # (eps_hat - eps') - (eps_hat_source - eps) with eps' = eps + eta (x - x_source)
        offset = inputs.x0.detach() - edit_source(inputs).x0
        return eps_target - eps_source - self.eta * offset
