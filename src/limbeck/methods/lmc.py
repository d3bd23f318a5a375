"""LMC-SDS, SDS with a learned manifold corrective: Alldieck et al. 2024 (arXiv 2401.05293)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_predictions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.methods.base import Method


class LMCState:
    """The projection b, and the x0_hat that it learns from after the step."""

    def __init__(self, b: Projector):
        self.b = b
        self.x0_hat: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        return self.b.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.b.load(tensors)


@dataclass(frozen=True)
class LMC(Method[LMCState]):
    """LMC-SDS: s (eps(x_t, t, y) - eps(x_t, t)) + (b(x, t) - x0_hat(x_t, t)) / lambda_t.

    x0_hat(x_t, t) is the unconditional prediction and b(x, t) its mean over the noise, so that
    what noising and denoising lose does not count as a fault of x.

    Attributes:
        guidance: guidance scale s. 0 leaves the corrective alone.
        projection: the projection b.
    """

    guidance: float = 7.5
    projection: Projection = field(default_factory=LearnedProjection)

    bibtex = """@inproceedings{alldieck2024lmc,
  title={Score Distillation Sampling with Learned Manifold Corrective},
  author={Alldieck, Thiemo and Kolotouros, Nikos and Sminchisescu, Cristian},
  booktitle={ECCV},
  year={2024}
}"""
    passes = "2 (1 at guidance 0; a sampled projection adds 2 per pair)"
    backward = "projection"

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (0.0, 1.0) if self.guidance != 0 else ()

    def init(self, prior: Prior, setup: SetupContext) -> LMCState:
        return LMCState(self.projection.build(prior, setup))

    def __call__(self, prior: Prior, inputs: StepInputs, state: LMCState) -> Float[Tensor, "b ..."]:
        t, schedule, y = inputs.t, inputs.schedule, inputs.conditions
        # b is the mean of one-step predictions under the empty prompt
        plain = (Conditions(y.unconditional, y.unconditional), 0.0)
        guided = [(y, 0.0), (y, 1.0)] if self.guidance != 0 else []
        unconditional, *pair = guided_predictions(prior, inputs.xt, t, plain, *guided)
        state.x0_hat = unconditional.x0
        inverse_lambda = expand(schedule.alpha(t) / schedule.sigma(t), unconditional.x0)
        corrective = inverse_lambda * (state.b(prior, inputs) - unconditional.x0)
        if not pair:
            return corrective
        null, pos = pair
        return corrective + self.guidance * (pos.eps - null.eps)

    def fit(self, prior: Prior, inputs: StepInputs, state: LMCState) -> dict[str, Tensor]:
        return {} if state.x0_hat is None else state.b.fit(inputs, state.x0_hat)
