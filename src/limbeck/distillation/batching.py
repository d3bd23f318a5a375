"""Predictions of several networks, noises or particles in as few network calls as possible.

Methods state formulas. Which rows and conditions share a network call is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import (
    apply_guidance,
    denoise_multistep,
    guided_prediction,
    guided_predictions,
    required_conditions,
)
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.cached_targets import CachedTargets
from limbeck.distillation.critics.base import Critic, unconditional_rows
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.kernels import PromptGroups
from limbeck.distillation.own_results import check_own_rewards
from limbeck.distillation.rewards.base import RewardFunction


def predict_prior_and_critic(
    prior: Prior, critic: Critic, inputs: StepInputs, guidance: float, critic_guidance: float
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """Predict the noise in x_t with the prior and with the critic.

    It is one network call if they share a network.

    Args:
        prior: the frozen prior.
        critic: the critic, which observes the particles of the step first.
        inputs: the current step.
        guidance: guidance scale of the prior.
        critic_guidance: guidance scale of the critic, away from ``unconditional_rows``.

    Returns:
        eps of the prior and eps of the critic.
    """
    critic.observe(inputs)
    conditions = inputs.conditions
    critic_conditions = Conditions(conditions.pos, unconditional_rows(inputs, critic.camera))
    outputs, critic_outputs = critic.predict_both(
        prior,
        inputs,
        required_conditions(conditions, guidance),
        required_conditions(critic_conditions, critic_guidance),
    )
    first = apply_guidance(conditions, outputs, guidance)
    prediction = denoise_multistep(prior, first, inputs.xt, inputs.t, conditions, guidance)
    return prediction.eps, apply_guidance(critic_conditions, critic_outputs, critic_guidance).eps


def draw_candidates(inputs: StepInputs, num_noises: int) -> StepInputs:
    """Repeat every row with several noises: its own one and fresh ones.

    Args:
        inputs: the current step, ``B`` rows.
        num_noises: noises per row.

    Returns:
        ``num_noises * B`` rows, noise by noise, without images.
    """
    count, shape = len(inputs.x0), inputs.x0.shape[1:]
    fresh = inputs.rng.normal("candidates", num_noises - 1, *shape).transpose(0, 1).flatten(0, 1)
    eps = torch.cat([inputs.eps, to_device(fresh, inputs.eps.device).to(inputs.eps)])
    rows = torch.arange(count).repeat(num_noises)
    return replace(replace(inputs, image=None).select(rows), eps=eps)


def rate_candidates(
    prior: Prior,
    candidates: StepInputs,
    conditions: Conditions,
    guidance: float,
    reward_fn: RewardFunction,
) -> Float[Tensor, "n"]:
    """Rate the images that candidates are denoised to.

    Args:
        prior: the frozen prior.
        candidates: rows with several noises.
        conditions: conditions of the way to the images, with its number of DDIM steps.
        guidance: guidance scale of this way.
        reward_fn: rates x0 of each row.
    """
    x0_hat = guided_prediction(prior, candidates.xt, candidates.t, conditions, guidance).x0
    rewards = reward_fn(x0_hat, candidates.conditions, candidates.particle)
    check_own_rewards(reward_fn, rewards, len(x0_hat))
    return rewards


def average_candidates(
    direction: Float[Tensor, "n ..."], weights: Float[Tensor, "k b"]
) -> Float[Tensor, "b ..."]:
    """Weighted sum over the candidates of each row.

    Args:
        direction: direction of every candidate, noise by noise.
        weights: weight of each of k candidates for each of b rows.
    """
    by_noise = direction.unflatten(0, weights.shape)
    return torch.einsum("kb,kb...->b...", weights.to(direction), by_noise)


def predict_eps_and_x0(
    prior: Prior, inputs: StepInputs, guidance: float, x0_guidance: float, x0_steps: int
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """Predict the noise in x_t at one guidance scale, and denoise x_t at another.

    Both start from the same network call.

    Args:
        prior: the frozen prior.
        inputs: the current step.
        guidance: guidance scale of the noise.
        x0_guidance: guidance scale of the DDIM steps to x0.
        x0_steps: DDIM steps from x_t to x0.

    Returns:
        eps_hat and x0_hat.
    """
    conditions = inputs.conditions
    x0_conditions = replace(conditions, denoise_steps=x0_steps)
    eps_hat, x0_hat = guided_predictions(
        prior, inputs.xt, inputs.t, (conditions, guidance), (x0_conditions, x0_guidance)
    )
    return eps_hat.eps, x0_hat.x0


def cached_x0(
    cache: CachedTargets,
    inputs: StepInputs,
    interval: int,
    predict: Callable[[StepInputs, Float[Tensor, "r ..."]], Prediction],
) -> Float[Tensor, "b ..."]:
    """Return the x0_hat of each row, predicted anew once every ``interval`` steps.

    Args:
        cache: the predictions of all particles; updated in place.
        inputs: the current step.
        interval: steps for which a prediction is kept.
        predict: maps the rows to predict, and the noise last predicted for them (at first the drawn
            one), to their prediction. It is not called if no row is due.
    """
    period, particle = inputs.step // interval, inputs.particle.cpu()
    due = (cache.last_update[particle] != period).nonzero().flatten()
    if len(due):
        rows, due_particle = inputs.select(due), particle[due]
        index = to_device(due_particle, inputs.x0.device)
        is_new = expand((cache.last_update[due_particle] < 0).double(), rows.eps)
        prediction = predict(rows, torch.where(is_new > 0, rows.eps, cache.kappa[index]))
        cache.target[index], cache.kappa[index] = prediction.x0, prediction.eps
        cache.last_update[due_particle] = period
        if len(due) == len(particle):  # also where views of a particle have an x0_hat each
            return prediction.x0
    return cache.target[to_device(particle, inputs.x0.device)]


def apply_per_prompt(
    groups: PromptGroups,
    inputs: StepInputs,
    function: Callable[..., Float[Tensor, "n d"]],
    *values: Float[Tensor, "b d"],
) -> Float[Tensor, "b d"]:
    """Apply a function to the rows of each prompt by themselves.

    Args:
        groups: which particle belongs to which prompt.
        inputs: the current step.
        function: maps the rows of one prompt to as many rows.
        values: its arguments for all rows; the result is like the last one.
    """
    out = torch.empty_like(values[-1])
    for rows in groups.rows_by_prompt(inputs.particle, out.device):
        out[rows] = function(*(value[rows] for value in values))
    return out
