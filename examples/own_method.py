"""A method of your own: limbeck run "a red mug" --method examples/own_method.py:AveragedSDS."""

from dataclasses import dataclass

import torch

from limbeck.diffusion.guidance import guided_prediction
from limbeck.distillation.state import State
from limbeck.methods.base import Method


@dataclass
class AverageDirection(State):
    """Running mean of the direction of each particle; part of every checkpoint."""

    mean: torch.Tensor

    def tensors(self):
        return {"mean": self.mean}

    def load(self, tensors):
        self.mean = tensors["mean"].to(self.mean)


@dataclass(frozen=True)
class AveragedSDS(Method):
    """SDS with a direction that is averaged over the steps of each particle.

    Attributes:
        guidance: guidance scale.
        decay: share of the previous average that is kept, in [0, 1). 0: plain SDS.
    """

    guidance: float = 7.5
    decay: float = 0.5

    def init(self, prior, setup):
        return AverageDirection(torch.zeros_like(setup.x0))

    def __call__(self, prior, inputs, state):
        conditions, rows = inputs.conditions, inputs.particle.to(inputs.x0.device)
        eps_hat = guided_prediction(prior, inputs.xt, inputs.t, conditions, self.guidance).eps
        new, old = eps_hat - inputs.eps, state.mean[rows]
        state.mean[rows] = self.decay * old + (1 - self.decay) * new
        return state.mean[rows]
