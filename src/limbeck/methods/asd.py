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
    """Asynchronous SD: eps_hat_s(x_t, t, y) - eps(x_t', t', y) of one eps, at a later time t'.

    The prior at t' = t + U[0, eta (t - t_min)] stands in for the critic of VSD.

    Attributes:
        guidance: guidance scale s of the first prediction; the second has none.
        eta: largest shift t' - t, as a fraction of t - t_min.
        t_min: time at which the shift is 0, in [0, 1]; the least time that is drawn.
    """

    guidance: float = 7.5
    eta: float = 0.1
    t_min: float = 0.02

    bibtex = """@inproceedings{ma2024scaledreamer,
  title={ScaleDreamer: Scalable Text-to-3D Synthesis with Asynchronous Score Distillation},
  author={Ma, Zhiyuan and Wei, Yuxiang and Zhang, Yabin and Zhu, Xiangyu and Lei, Zhen and
    Zhang, Lei},
  booktitle={ECCV},
  year={2024}
}"""
    passes = "3 in two calls, of two times (2 at guidance 1)"

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise ValueError(f"eta must be at least 0, not {self.eta}")
        if not 0 <= self.t_min <= 1:
            raise ValueError(f"t_min must be in [0, 1], not {self.t_min}")

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        x, t, eps, y = inputs.x0.detach(), inputs.t, inputs.eps, inputs.conditions
        later_t = to_device(inputs.random_later_t(self.eta, self.t_min), t.device)
        later_xt = inputs.schedule.add_noise(x, eps, later_t)
        eps_phi = prior(later_xt, later_t, y.pos)[0].eps
        eps_hat = guided_prediction(prior, inputs.xt, t, y, self.guidance).eps
        return eps_hat - eps_phi
