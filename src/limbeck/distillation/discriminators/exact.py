"""The optimal discriminator of an exact prior and the samples of a step, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.discriminators.base import Discriminator, DiscriminatorConfig
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.rewards.density import DensityPrior
from limbeck.priors.exact import GaussianMixture


@dataclass(frozen=True)
class ExactDiscriminator(DiscriminatorConfig):
    """log p_t(x_t | y) - log q_t(x_t) of an exact prior, q_t the noised samples of the step.

    The samples are those of the same prompt. Nothing is trained.
    """

    def build(self, prior: Prior, setup: SetupContext) -> Discriminator:
        setup.require_prompts_of_particles("an exact discriminator compares samples of")
        if not isinstance(prior, DensityPrior):
            raise ValueError(
                "the density of this model is not known: use --method.discriminator feature"
            )
        return _ExactDiscriminatorModel(prior, setup)


class _ExactDiscriminatorModel(Discriminator):
    def __init__(self, prior: DensityPrior, setup: SetupContext):
        self._prior, self._setup, self._samples = prior, setup, setup.x0

    def observe(self, inputs: StepInputs) -> None:
        self._samples = inputs.x0.detach()

    def logit(self, inputs: StepInputs, xt: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
        log_p = self._prior.log_density(xt, inputs.t, inputs.conditions.pos)
        prompt = self._setup.prompt_index(inputs.particle.cpu())
        log_q = torch.empty_like(log_p)
        for index in prompt.unique().tolist():
            rows = (prompt == index).nonzero().flatten().to(xt.device)
            samples = self._samples[rows]
            q = GaussianMixture(
                samples, torch.zeros(len(samples), device=xt.device), schedule=inputs.schedule
            )
            every = q.condition([""] * len(rows))
            log_q[rows] = q.log_density(xt[rows], inputs.t[rows], every)
        return (log_p - log_q).to(xt.dtype)
