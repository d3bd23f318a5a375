"""RFDS, rectified flow distillation sampling: Yang et al. 2024, Text-to-Image Rectified Flow as Plug-and-Play Priors (arXiv
2406.03293)."""

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


def velocity_gap(said: Prediction, sample: StepInputs) -> Float[Tensor, "b ..."]:
    """v_hat - v at x_t, of flow (eps - x0) on straight paths and of v (alpha eps - sigma x0) on variance preserving ones.

    Both are (eps_hat - eps) / alpha, written so that nothing is divided by an alpha that may be 0.
    """
    x0 = sample.x0.detach()
    a, s = expand(sample.schedule.alpha(sample.t), x0), expand(sample.schedule.sigma(sample.t), x0)
    return (a * (said.eps - sample.eps) + s * (x0 - said.x0)) / (a**2 + s**2)


@dataclass(frozen=True)
class RFDS(StatelessMethod):
    """v_hat_s(x_t, t, y) - (eps - x): SDS in velocities, so that the network's own output is matched.

    guidance: s of the velocity.
    """

    guidance: float = 50.0

    bibtex = """@inproceedings{yang2025rfds, title={Text-to-Image Rectified Flow as Plug-and-Play Priors}, author={Yang, Xiaofeng
  and Chen, Cheng and Yang, Xulei and Liu, Fayao and Lin, Guosheng}, booktitle={ICLR}, year={2025}}"""
    passes = "2 (1 at guidance 1)"

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        return velocity_gap(
            guided_prediction(prior, sample.xt, sample.t, sample.conditions, self.guidance), sample
        )
