"""Classifier-free guidance, Perp-Neg and multi-step predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior


def required_conditions(told: Conditions, scale: float) -> list[Condition]:
    """The conditions guidance needs: one at scale 1 or 0, else null and pos; all of them where some are to be kept away from."""
    if told.perp_neg:
        return [told.null, told.pos, *(text for text, _ in told.perp_neg)]
    if scale == 1:
        return [told.pos]
    return [told.null] if scale == 0 else [told.null, told.pos]


def apply_guidance(told: Conditions, answers: Sequence[Prediction], scale: float) -> Prediction:
    """null + scale (pos - null), from the answers to ``asked``.

    With texts to keep away from it is Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968, eq. 7): with d = pos - null and
    n_i = neg_i - null, null + scale (d - sum_i w_i (n_i - <n_i, d> / <d, d> d)), the product over a row's eps.
    """
    if not told.perp_neg:
        return answers[0].lerp(answers[1], scale) if len(answers) == 2 else answers[0]
    null, pos, *negs = answers
    d = (pos.eps - null.eps).flatten(1)
    square = d.square().sum(1)
    shares = [torch.ones_like(square) - scale, torch.zeros_like(square) + scale]
    for neg, (_, weight) in zip(negs, told.perp_neg, strict=True):
        w = scale * weight.to(square)
        # where the prompt says nothing, nothing is parallel to it
        along = torch.where(square > 0, ((neg.eps - null.eps).flatten(1) * d).sum(1) / square, 0.0)
        shares[0] = shares[0] + w * (1 - along)
        shares[1] = shares[1] + w * along
        shares.append(-w)
    return Prediction.weighted_sum(answers, shares)


def denoise_multistep(
    prior: Prior,
    said: Prediction,
    xt: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    told: Conditions,
    scale: float,
) -> Prediction:
    """What is left of ``told.k`` guided DDIM steps after the first, at times t (k-1)/k .. t/k; eps is what x_t then holds."""
    if told.denoise_steps == 1:
        return said
    for left in range(told.denoise_steps - 1, 0, -1):
        later = prior.schedule.snap(t * left / told.denoise_steps)
        x = prior.schedule.add_noise(said.x0, said.eps, later)
        said = apply_guidance(told, prior(x, later, *required_conditions(told, scale)), scale)
    return Prediction.from_output(
        "x0", said.x0, xt, prior.schedule.alpha(t), prior.schedule.sigma(t)
    )


def guided_prediction(
    prior: Prior, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], told: Conditions, scale: float
) -> Prediction:
    """Guidance as diffusers counts it. Scale 1 and scale 0 cost one pass, any other two in one call; ``told.k`` times that."""
    return denoise_multistep(
        prior,
        apply_guidance(told, prior(xt, t, *required_conditions(told, scale)), scale),
        xt,
        t,
        told,
        scale,
    )
