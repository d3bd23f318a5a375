"""SDS, score distillation sampling: DreamFusion (Poole et al. 2022, arXiv 2209.14988), eq. 3."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction, guided_predictions, rescale_x0
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class SDS(StatelessMethod):
    """Score distillation sampling: eps_hat_s(x_t, t, y) - eps.

    Attributes:
        guidance: guidance scale s. The paper's omega is s - 1: its 100 is 101 here.
        rescale: how far the guided x0_hat is rescaled to the standard deviation that it has under
            the prompt alone, over each group of views, in [0, 1]; 0.5 in MVDream. 0: not at all.
    """

    guidance: float = 100.0
    rescale: float = 0.0

    bibtex = """@article{poole2022dreamfusion,
  title={DreamFusion: Text-to-3D using 2D Diffusion},
  author={Poole, Ben and Jain, Ajay and Barron, Jonathan T. and Mildenhall, Ben},
  journal={arXiv:2209.14988},
  year={2022}
}"""
    passes = "2 (1 at guidance 1)"

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must be in [0, 1], not {self.rescale}")
        if self.rescale and self.guidance == 1:
            raise ValueError(f"rescale {self.rescale} changes nothing at guidance 1: leave it out")

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        xt, t, eps = inputs.xt, inputs.t, inputs.eps
        if self.rescale:
            return self._rescaled_eps(prior, inputs) - eps
        eps_hat = guided_prediction(prior, xt, t, inputs.conditions, self.guidance).eps
        return eps_hat - eps

    def _rescaled_eps(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        """The noise that x_t contains beside the rescaled x0_hat; no more network rows."""
        xt, t, y = inputs.xt, inputs.t, inputs.conditions
        guided, prompt = guided_predictions(
            prior, xt, t, (y, self.guidance), (y.with_text(y.pos), 1.0)
        )
        x0 = rescale_x0(guided.x0, prompt.x0, self.rescale, inputs.rng.group_size)
        alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
        return Prediction.from_output("x0", x0, xt, alpha, sigma).eps
