"""Training steps of a critic between the steps of a generator, on samples of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic
from limbeck.distillation.inputs import StepInputs
from limbeck.methods.base import CriticMethod, Method
from limbeck.system.random import RowRandom


def train_critic_only(
    method: Method[Any],
    prior: Prior,
    state: Any,
    count: int,
    rng: RowRandom,
    draw_samples: Callable[[RowRandom], StepInputs],
) -> None:
    """Train the critic before a step; does nothing for a method without one.

    Args:
        method: the method, with its numbers of the step.
        prior: the frozen model.
        state: state of the method, of which a critic is trained.
        count: number of training steps.
        rng: random numbers of the rows of the step.
        draw_samples: makes new samples from random numbers; their t and eps are not used.
    """
    if not isinstance(method, CriticMethod) or not isinstance(state, Critic):
        return
    for i in range(count):
        with torch.no_grad():
            inputs = draw_samples(rng.fold(f"critic only {i}"))
        method.fit(prior, inputs, state)
