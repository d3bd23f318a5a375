"""RFDS, rectified flow distillation sampling: Yang et al. 2024 (arXiv 2406.03293)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


def velocity_error(prediction: Prediction, inputs: StepInputs) -> Float[Tensor, "b ..."]:
    """v_hat - v at x_t: of a rectified flow v = eps - x, of others v = alpha_t eps - sigma_t x.

    Both are (eps_hat - eps) / alpha_t, written without a division by an alpha_t that may be 0.
    """
    x, t, schedule = inputs.x0.detach(), inputs.t, inputs.schedule
    alpha, sigma = expand(schedule.alpha(t), x), expand(schedule.sigma(t), x)
    error = alpha * (prediction.eps - inputs.eps) + sigma * (x - prediction.x0)
    return error / (alpha**2 + sigma**2)


@dataclass(frozen=True)
class RFDS(StatelessMethod):
    """Rectified flow distillation sampling: v_hat_s(x_t, t, y) - (eps - x), SDS in velocities.

    Attributes:
        guidance: guidance scale s of the velocity.
    """

    guidance: float = 50.0

    bibtex = """@inproceedings{yang2025rfds,
  title={Text-to-Image Rectified Flow as Plug-and-Play Priors},
  author={Yang, Xiaofeng and Chen, Cheng and Yang, Xulei and Liu, Fayao and Lin, Guosheng},
  booktitle={ICLR},
  year={2025}
}"""
    passes = "2 (1 at guidance 1)"

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        v_hat = guided_prediction(prior, inputs.xt, inputs.t, inputs.conditions, self.guidance)
        return velocity_error(v_hat, inputs)
