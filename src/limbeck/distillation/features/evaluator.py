"""Features of the decoded image from the evaluator of the embedded world."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.features.base import Features


@dataclass(frozen=True)
class EvaluatorFeatures(Features):
    """Features of the decoded image from the world's evaluator.

    They distinguish objects, colors and patterns. Each step costs one pass of the decoder and its
    backward pass.
    """

    def __call__(self, prior: Prior, x0: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        if x0.ndim != 4:
            raise ValueError(
                f"evaluator features need images, not x0 of shape {list(x0.shape[1:])}: "
                "use --method.features identity"
            )
        from limbeck.world.pretrained import shared_evaluator  # weights that only this option reads

        return shared_evaluator(prior.device).features(prior.decode(x0).float())
