"""Training steps of a critic between the steps of a generator, on samples of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from limbeck.distillation.critics.base import Critic
from limbeck.distillation.timesteps.base import training_progress
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.base import CriticMethod
from limbeck.system.random import RowRandom

if TYPE_CHECKING:
    from limbeck.training.trainer import Run


def train_critic_only(run: Run, rng: RowRandom) -> None:
    """Train the critic before a step, as often as the representation says.

    Args:
        run: the run.
        rng: random numbers of the rows of the step.
    """
    e, state = run.experiment, run.state
    count = run.representation.critic_only_steps(run.step)
    if not isinstance(e.method, CriticMethod) or not isinstance(state, Critic):
        return
    method = e.method.at(training_progress(run.step, e.steps))
    with run.profile.part("critic"):
        for i in range(count):
            rows = rng.fold(f"critic only {i}")
            with torch.no_grad():
                camera = run.cameras.sample(len(rows), rows)
                request = RenderRequest(rows.particle, camera, rows, run.step / max(e.steps, 1))
                render = run.render(request)
                x0 = run.encode(render)
            t, eps = torch.zeros(len(rows)), torch.zeros_like(x0)  # a critic draws its own
            inputs = run.step_inputs(render, x0, t, eps, rows.particle, camera, rows)
            method.fit(run.prior, inputs, state)
