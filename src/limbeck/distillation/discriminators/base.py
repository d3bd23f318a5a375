"""Base classes of discriminators, and a critic with one beside it."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import Critic
from limbeck.distillation.critics.wrapped import WrappedCritic
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.own_results import check_own_object

_PREFIX = "discriminator."


class Discriminator(abc.ABC):
    """Tells noised samples of the prior from those of the run.

    Its optimum is the logit log p_t(x_t | y) - log q_t(x_t | y), p_t of the prior and q_t of the
    run's samples: exp(logit) estimates their density ratio.
    """

    @abc.abstractmethod
    def logit(self, inputs: StepInputs, xt: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
        """Return the log odds that x_t is a sample of the prior, differentiable in x_t.

        Args:
            inputs: the current step, whose times and conditions the rows have.
            xt: x_t of each row.
        """

    def observe(self, inputs: StepInputs) -> None:
        """Receive the samples of the step before any logit. Default: ignore them."""
        return

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Train on the detached x0 of the current step. Default: nothing is trained.

        Returns:
            Metrics to log, by name.
        """
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint, by name."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that ``tensors`` returned."""
        return


@dataclass(frozen=True)
class DiscriminatorConfig(abc.ABC):
    """Options of a discriminator."""

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        """Scales of the guided predictions in its training; by default there are none."""
        return ()

    @abc.abstractmethod
    def build(self, prior: Prior, setup: SetupContext) -> Discriminator | None:
        """Build the discriminator of a run; None for none.

        Args:
            prior: the frozen prior of the run.
            setup: particles, prompts and seed of the run.

        Raises:
            ValueError: if this prior or run cannot have such a discriminator.
        """

    def beside(self, critic: Critic, prior: Prior, setup: SetupContext) -> Critic:
        """Return the critic with the discriminator beside it; the critic itself for none.

        Args:
            critic: the critic of the run.
            prior: as in ``build``.
            setup: as in ``build``.
        """
        discriminator = self.build(prior, setup)
        if discriminator is None:
            return critic
        check_own_object(self, ".build", discriminator, ("logit", "fit", "tensors", "load"))
        return DiscriminatedCritic(critic, discriminator)


class DiscriminatedCritic(WrappedCritic):
    """A critic in every respect, with a discriminator that is trained after it.

    Args:
        critic: the critic.
        discriminator: the discriminator.
    """

    def __init__(self, critic: Critic, discriminator: Discriminator):
        super().__init__(critic)
        self.discriminator = discriminator

    def observe(self, inputs: StepInputs) -> None:
        super().observe(inputs)
        self.discriminator.observe(inputs)

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        return {**super().fit(inputs), **self.discriminator.fit(inputs)}

    def tensors(self) -> dict[str, Tensor]:
        own = {_PREFIX + name: value for name, value in self.discriminator.tensors().items()}
        return super().tensors() | own

    def load(self, tensors: dict[str, Tensor]) -> None:
        own = {k: v for k, v in tensors.items() if k.startswith(_PREFIX)}
        self.discriminator.load({k.removeprefix(_PREFIX): v for k, v in own.items()})
        super().load({k: v for k, v in tensors.items() if k not in own})


def judge(
    discriminator: Discriminator, inputs: StepInputs
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b ..."]]:
    """Return the logit at x_t, and the gradient of the generator's loss in x0.

    The loss of a sample is softplus(-logit), that of the non-saturating GAN.

    Args:
        discriminator: the discriminator, which has observed the samples of the step.
        inputs: the current step.
    """
    with torch.enable_grad():
        x0 = inputs.x0.detach().requires_grad_()
        logit = discriminator.logit(inputs, inputs.schedule.add_noise(x0, inputs.eps, inputs.t))
        gradient = torch.autograd.grad(F.softplus(-logit).sum(), x0)[0]
    return logit.detach(), gradient
