"""Base classes of the projection b(x, t) of LMC-SDS.

b(x, t) approximates the mean over eps of the prior's unconditional x0 prediction at x_t.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless


@dataclass(frozen=True)
class Projection(abc.ABC):
    """Options of a projection."""

    @abc.abstractmethod
    def build(self, prior: Prior, setup: SetupContext) -> Projector:
        """Build the projector of a run.

        Args:
            prior: the denoiser.
            setup: context of the run.

        Raises:
            ValueError: if this projection does not exist for the prior.
        """


class Projector(Stateless, abc.ABC):
    """A projection at work. Unless a subclass overrides it, it learns nothing and has no state."""

    @abc.abstractmethod
    def __call__(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        """b(x, t) of each row; it may draw noise but must not depend on the step's eps.

        Args:
            prior: the denoiser.
            inputs: inputs of the step.
        """

    def fit(self, inputs: StepInputs, target: Float[Tensor, "b ..."]) -> dict[str, Tensor]:
        """Train on one step.

        Args:
            inputs: inputs of the step.
            target: the prior's unconditional x0 prediction at x_t.

        Returns:
            Metrics to log.
        """
        return {}
