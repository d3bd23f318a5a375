"""The projection as an average over new noise."""

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
    """Mean of x0_hat(alpha x + sigma eps, t) over new antithetic pairs of noise eps, -eps.

    It is unbiased for any prior and costs two network passes per pair.

    Attributes:
        num_pairs: number of pairs, at least 1.
    """

    num_pairs: int = 4

    def __post_init__(self) -> None:
        if self.num_pairs < 1:
            raise ValueError(f"num_pairs must be at least 1, not {self.num_pairs}")

    def build(self, prior: Prior, setup: SetupContext) -> Projector:
        return _SampledProjector(self.num_pairs)


class _SampledProjector(Projector):
    def __init__(self, num_pairs: int):
        self._num_pairs = num_pairs

    def __call__(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        x, n, b = inputs.x0.detach(), self._num_pairs, len(inputs.x0)
        drawn = inputs.rng.normal("projection", n, *x.shape[1:]).transpose(0, 1).flatten(0, 1)
        half = to_device(drawn, x.device).to(x)
        eps = torch.cat([half, -half])
        rows = torch.arange(b, device=x.device).repeat(2 * n)
        t = inputs.t[rows]
        xt = inputs.schedule.add_noise(x[rows], eps, t)
        prediction = prior(xt, t, inputs.conditions.unconditional[rows])[0]
        return prediction.x0.unflatten(0, (2 * n, b)).mean(0)
