"""What the world's evaluator sees in the decoded picture."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.features.base import Features


@dataclass(frozen=True)
class EvaluatorFeatures(Features):
    """The features of the embedded world's evaluator, of the decoded picture: they tell objects, colours and patterns apart.

    A decoder's pass and its backward are paid at every step.
    """

    def __call__(self, prior: Prior, x0: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        if x0.ndim != 4:
            raise ValueError(
                f"seen features need pictures, not x0 of {list(x0.shape[1:])}: use --method.features itself"
            )
        from limbeck.world.pretrained import evaluator_on  # weights that only this option reads

        return evaluator_on(prior.device).features(prior.decode(x0).float())
