"""Editing along a flow: coupled noise, velocities, and Euler steps of any Gaussian process.

x_t / (alpha_t + sigma_t) = (1 - u) x + u eps with u = sigma_t / (alpha_t + sigma_t), so that every
diffusion model is a rectified flow with time u. Its velocity is v = eps - x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import StepInputs


def flow_time(schedule: NoiseSchedule, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """u = sigma_t / (alpha_t + sigma_t): sigma_t of a rectified flow; float64.

    Args:
        schedule: noise schedule of the prior.
        t: time of each row.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return sigma / (alpha + sigma)


def velocity(prediction: Prediction) -> Float[Tensor, "b ..."]:
    """v_hat = eps_hat - x0_hat, the velocity of the flow.

    Args:
        prediction: prediction at x_t.
    """
    return prediction.eps - prediction.x0


def euler_step(inputs: StepInputs) -> Float[Tensor, "b"]:
    """u - u', how far the Euler step of this step goes in the time of the flow; float64.

    t' = t (N - i - 1) / (N - i) at step i of N: the next time of ``--timesteps trailing``, rounded
    to a time of the schedule as that will be, and 0 after the last step.

    Args:
        inputs: the current step.
    """
    remaining = inputs.steps - inputs.step
    t = inputs.t.double()
    if inputs.exact_t is None:
        next_t = t * (remaining - 1) / remaining
    else:
        # as TrailingTimesteps computes it, from the first time, which 6 digits of a float32 give
        # back: a time halfway between two of the schedule is then rounded alike in both steps
        t_start = (inputs.exact_t.double() * inputs.steps / remaining).round(decimals=6)
        next_t = (t_start * (remaining - 1) / inputs.steps).to(inputs.exact_t.dtype)
        next_t = to_device(inputs.schedule.snap(next_t).double(), t.device)
    following = flow_time(inputs.schedule, next_t)
    # the smallest time of a discrete schedule has noise, and the flow ends without
    end = torch.zeros_like(following) if remaining == 1 else following
    return flow_time(inputs.schedule, t) - end


def euler_solver(t_start: float, steps: int) -> dict[str, Any]:
    """Options of a run that is the Euler solver of a flow, as in run.yaml; see ``euler_step``.

    Args:
        t_start: diffusion time that it starts from.
        steps: steps that it takes.
    """
    return {"steps": steps, "lr": 1.0, "timesteps": {"name": "trailing", "t_start": t_start}}


#: Options of an experiment that is the Euler solver of a flow, as in run.yaml.
EULER_RECIPE: Mapping[str, Any] = {
    "timesteps": "trailing",
    "weight": "uniform",
    "optimizer": {"name": "sgd"},
    "representation": {"lr": 1.0},
}


def coupled_noise(
    inputs: StepInputs, source_x0: Float[Tensor, "b ..."], eta: float
) -> Float[Tensor, "b ..."]:
    """eps' = eps + eta (x - x_source), the noise of the edited image.

    Args:
        inputs: the current step.
        source_x0: x_source of each row.
        eta: 0: the noise of the source; 1: x_t then differs from that of the source by
            (alpha_t + sigma_t) (x - x_source).
    """
    return inputs.eps + eta * (inputs.x0.detach() - source_x0)
