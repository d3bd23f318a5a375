"""LMC-SDS: Alldieck et al. 2024, Score Distillation Sampling with Learned Manifold Corrective (arXiv 2401.05293)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.methods.base import Method


class Corrected:
    """The projection at work, and the picture it is to learn from after the step."""

    def __init__(self, b: Projector):
        self.b = b
        self.seen: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        return self.b.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.b.load(tensors)


@dataclass(frozen=True)
class LMC(Method[Corrected]):
    """s (eps(x_t, t, y) - eps(x_t, t)) + (b(x, t) - x0_hat(x_t, t)) / lambda_t, x0_hat the unconditional picture and b(x, t) what
    it is of x on average: so what corrupts x0_hat on the way, whatever x is, does not count.

    guidance: s. b: the projection.
    """

    guidance: float = 7.5
    projection: Projection = field(default_factory=LearnedProjection)

    bibtex = """@inproceedings{alldieck2024lmc, title={Score Distillation Sampling with Learned Manifold Corrective},
  author={Alldieck, Thiemo and Kolotouros, Nikos and Sminchisescu, Cristian}, booktitle={ECCV}, year={2024}}"""
    passes = "2 (1 at guidance 0; a sampled projection adds 2 per pair)"
    backward = "projection"

    def init(self, prior: Prior, start: SetupContext) -> Corrected:
        return Corrected(self.projection.build(prior, start))

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Corrected
    ) -> Float[Tensor, "b ..."]:
        told, schedule, t = sample.conditions, sample.schedule, sample.t
        null, *pos = prior(sample.xt, t, told.null, *([told.pos] if self.guidance != 0 else []))
        state.seen = null.x0
        away = expand(schedule.alpha(t) / schedule.sigma(t), null.x0) * (
            state.b(prior, sample) - null.x0
        )
        return away + self.guidance * (pos[0].eps - null.eps) if pos else away

    def fit(self, prior: Prior, sample: StepInputs, state: Corrected) -> dict[str, Tensor]:
        return {} if state.seen is None else state.b.fit(sample, state.seen)
