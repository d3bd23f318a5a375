"""Classifier-free guidance, Perp-Neg and multi-step predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior


def required_conditions(conditions: Conditions, guidance: float) -> list[Condition]:
    """The conditions whose predictions ``apply_guidance`` combines.

    Args:
        conditions: prompt, null prompt and the negative prompts of Perp-Neg.
        guidance: guidance scale s.

    Returns:
        pos alone at scale 1, null alone at scale 0, null and pos at other scales; with Perp-Neg
        always null, pos and every negative prompt.
    """
    if conditions.perp_neg:
        return [conditions.null, conditions.pos, *(text for text, _ in conditions.perp_neg)]
    if guidance == 1:
        return [conditions.pos]
    return [conditions.null] if guidance == 0 else [conditions.null, conditions.pos]


def apply_guidance(
    conditions: Conditions, predictions: Sequence[Prediction], guidance: float
) -> Prediction:
    """Classifier-free guidance, null + s (pos - null), or Perp-Neg if there are negative prompts.

    Perp-Neg is null + s (d - sum_i w_i (n_i - <n_i, d> / <d, d> d)) with d = pos - null and
    n_i = neg_i - null, the inner product over the eps of a row.

    Args:
        conditions: prompt, null prompt and the negative prompts of Perp-Neg with their weights.
        predictions: predictions under ``required_conditions``, in that order.
        guidance: guidance scale s.

    References:
        Armandpour et al. 2023, arXiv 2304.04968, eq. 7 (Perp-Neg).
    """
    if not conditions.perp_neg:
        if len(predictions) == 1:
            return predictions[0]
        return predictions[0].lerp(predictions[1], guidance)
    null, pos, *negs = predictions
    d = (pos.eps - null.eps).flatten(1)
    square = d.square().sum(1)
    weights = [torch.ones_like(square) - guidance, torch.zeros_like(square) + guidance]
    for neg, (_, neg_weight) in zip(negs, conditions.perp_neg, strict=True):
        w = guidance * neg_weight.to(square)
        # where pos equals null, d is 0 and nothing is parallel to it
        parallel = torch.where(
            square > 0, ((neg.eps - null.eps).flatten(1) * d).sum(1) / square, 0.0
        )
        weights[0] = weights[0] + w * (1 - parallel)
        weights[1] = weights[1] + w * parallel
        weights.append(-w)
    return Prediction.weighted_sum(predictions, weights)


def denoise_multistep(
    prior: Prior,
    prediction: Prediction,
    xt: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    conditions: Conditions,
    guidance: float,
) -> Prediction:
    """Refine a guided prediction by the remaining k - 1 guided DDIM steps to time 0.

    With k = ``conditions.denoise_steps`` the steps are at times t (k-1)/k, ..., t/k.

    Args:
        prior: the denoiser.
        prediction: guided prediction at x_t, the first of the k steps.
        xt: x_t of each row.
        t: time of each row.
        conditions: conditions of each row.
        guidance: guidance scale s of every step.

    Returns:
        The x0 of the last step with the eps that x_t then contains.
    """
    k = conditions.denoise_steps
    if k == 1:
        return prediction
    for steps_left in range(k - 1, 0, -1):
        next_t = prior.schedule.snap(t * steps_left / k)
        x = prior.schedule.add_noise(prediction.x0, prediction.eps, next_t)
        predictions = prior(x, next_t, *required_conditions(conditions, guidance))
        prediction = apply_guidance(conditions, predictions, guidance)
    alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
    return Prediction.from_output("x0", prediction.x0, xt, alpha, sigma)


def guided_prediction(
    prior: Prior,
    xt: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    conditions: Conditions,
    guidance: float,
) -> Prediction:
    """Guided prediction at x_t, of ``conditions.denoise_steps`` DDIM steps.

    Each step is one network call with one row per required condition: one at guidance 1 or 0, two
    at any other, all with Perp-Neg.

    Args:
        prior: the denoiser.
        xt: x_t of each row.
        t: time of each row.
        conditions: conditions of each row.
        guidance: guidance scale s, counted as in diffusers: 1 is no guidance.
    """
    predictions = prior(xt, t, *required_conditions(conditions, guidance))
    prediction = apply_guidance(conditions, predictions, guidance)
    return denoise_multistep(prior, prediction, xt, t, conditions, guidance)
