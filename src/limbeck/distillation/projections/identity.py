"""The projection b(x, t) = x."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector


@dataclass(frozen=True)
class IdentityProjection(Projection):
    """b(x, t) = x, which makes LMC-SDS equal to SDS."""

    def build(self, prior: Prior, setup: SetupContext) -> Projector:
        return _IdentityProjector()


class _IdentityProjector(Projector):
    def __call__(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        return inputs.x0.detach()
