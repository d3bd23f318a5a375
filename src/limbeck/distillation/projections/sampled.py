"""The projection as an average over fresh noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector


@dataclass(frozen=True)
class SampledProjection(Projection):
    """The mean of x0_hat(alpha x + sigma eps, t) over pairs eps, -eps of fresh noise: right on average on any prior, and dear.

    pairs: of noise, at two passes each.
    """

    pairs: int = 4

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(f"pairs must be at least 1, not {self.pairs}")

    def build(self, prior: Prior, start: SetupContext) -> Projector:
        return _Mean(self.pairs)


class _Mean(Projector):
    def __init__(self, pairs: int):
        self._pairs = pairs

    def __call__(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        x, b = sample.x0.detach(), len(sample.x0)
        half = to_device(
            torch.randn(self._pairs * b, *x.shape[1:], generator=sample.rng), x.device
        ).to(x)
        eps, rows = (
            torch.cat([half, -half]),
            torch.arange(b, device=x.device).repeat(2 * self._pairs),
        )
        t = sample.t[rows]
        said = prior(sample.schedule.add_noise(x[rows], eps, t), t, sample.conditions.null[rows])[0]
        return said.x0.unflatten(0, (2 * self._pairs, b)).mean(0)
