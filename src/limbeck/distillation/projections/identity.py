"""The projection that leaves x as it is."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector


@dataclass(frozen=True)
class IdentityProjection(Projection):
    """b(x, t) = x, with which LMC is SDS."""

    def build(self, prior: Prior, start: SetupContext) -> Projector:
        return _Same()


class _Same(Projector):
    def __call__(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        return sample.x0.detach()
