"""x0 predictions of prior and critic as functions of x0, for losses differentiated through both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic, unconditional_rows
from limbeck.distillation.inputs import StepInputs

#: of x0, the prior's prediction of it and the critic's prediction of it: a loss for each row
DenoisedLoss = Callable[
    [Float[Tensor, "b ..."], Float[Tensor, "b ..."], Float[Tensor, "b ..."]], Float[Tensor, "b"]
]


def gradient_through_networks(
    prior: Prior,
    critic: Critic,
    inputs: StepInputs,
    guidance: float,
    critic_guidance: float,
    loss: DenoisedLoss,
) -> Float[Tensor, "b ..."]:
    """Return the gradient in x0 of a loss of x0 and of both networks' predictions of it.

    It flows through x_t = alpha x0 + sigma eps into both networks, whose weights get none.

    Args:
        prior: the frozen prior.
        critic: the critic, which observes the samples of the step first.
        inputs: the current step.
        guidance: guidance scale of the prior.
        critic_guidance: guidance scale of the critic, away from ``unconditional_rows``.
        loss: maps x0, the prior's x0_hat and the critic's x0_hat to a loss for each row.
    """
    critic.observe(inputs)
    conditions = inputs.conditions
    critic_conditions = Conditions(
        inputs.with_pose(conditions.pos),
        inputs.with_pose(unconditional_rows(inputs, critic.camera)),
    )
    with torch.enable_grad():
        x0 = inputs.x0.detach().requires_grad_()
        xt = inputs.schedule.add_noise(x0, inputs.eps, inputs.t)
        of_prior = guided_prediction(prior, xt, inputs.t, conditions, guidance)
        of_critic = guided_prediction(
            critic.prior(), xt, inputs.t, critic_conditions, critic_guidance
        )
        total = loss(x0, of_prior.x0, of_critic.x0).sum()
        return torch.autograd.grad(total, x0)[0]
