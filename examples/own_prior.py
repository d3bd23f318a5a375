"""A prior of your own: limbeck run "red" --model examples/own_prior.py:GaussianImages."""

from dataclasses import dataclass, field

import torch

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.diffusion.schedule import stable_diffusion_schedule
from limbeck.diffusion.tensors import expand


@dataclass
class GaussianImages:
    """Images with independent Gaussian pixels around gray; every prompt means the same.

    Attributes:
        std: standard deviation of the pixels, of which 0 is gray and 1 white.
    """

    std: float = 0.5
    call_counter: NetworkCallCounter = field(default_factory=NetworkCallCounter, init=False)
    schedule, prediction_type, device = stable_diffusion_schedule(), "eps", "cpu"
    shape, image_size, size_multiple = (3, 8, 8), (8, 8), 0

    def __call__(self, xt, t, *conditions):
        self.call_counter.add(len(xt) * len(conditions))
        alpha, sigma = (expand(f(t), xt) for f in (self.schedule.alpha, self.schedule.sigma))
        x0 = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2) * xt
        return [Prediction(x0, (xt - alpha * x0) / sigma) for _ in conditions]

    def encode(self, image):
        return 2 * image - 1

    def decode(self, x0):
        return (x0 + 1) / 2

    def condition(self, prompts):
        return Condition(torch.zeros(len(prompts), 1))
