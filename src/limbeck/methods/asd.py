"""ASD, asynchronous score distillation: ScaleDreamer (Ma et al. 2024, arXiv 2407.02040)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class ASD(StatelessMethod):
    """eps_hat_s(x_t, t, y) - eps(x_{t+D}, t + D, y) of one eps, D ~ U[0, eta (t - t_min)]: the prior a little later plays phi.

    guidance: s of the first prediction; the second has none. eta: greatest share of t - t_min to shift by. t_min: time of no
    shift, the least time that is drawn.
    """

    guidance: float = 7.5
    eta: float = 0.1
    t_min: float = 0.02

    bibtex = """@inproceedings{ma2024scaledreamer, title={ScaleDreamer: Scalable Text-to-3D Synthesis with Asynchronous Score
  Distillation}, author={Ma, Zhiyuan and Wei, Yuxiang and Zhang, Yabin and Zhu, Xiangyu and Lei, Zhen and Zhang, Lei},
  booktitle={ECCV}, year={2024}}"""
    passes = "3 in two calls, of two times (2 at guidance 1)"

    def __post_init__(self) -> None:
        if not (self.eta >= 0 and 0 <= self.t_min <= 1):
            raise ValueError(
                f"eta must not be negative and t_min lies in [0, 1], not eta {self.eta}, t_min {self.t_min}"
            )

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        later = to_device(sample.random_later_t(self.eta, self.t_min), sample.t.device)
        phi = prior(
            sample.schedule.add_noise(sample.x0.detach(), sample.eps, later),
            later,
            sample.conditions.pos,
        )[0]
        return (
            guided_prediction(prior, sample.xt, sample.t, sample.conditions, self.guidance).eps
            - phi.eps
        )
