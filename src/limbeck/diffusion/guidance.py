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
        null alone at scale 0, pos alone at scale 1, null and pos at other scales; with Perp-Neg
        null, pos and every negative prompt at every scale but 0. With guidance by an image those of
        no_image, null and pos whose weight is not 0.
    """
    if conditions.no_image is not None:
        terms = (conditions.no_image, conditions.null, conditions.pos)
        weights = _image_weights(conditions, guidance)
        return [term for term, weight in zip(terms, weights, strict=True) if weight]
    if guidance == 0:
        return [conditions.null]
    if conditions.perp_neg:
        return [conditions.null, conditions.pos, *(text for text, _ in conditions.perp_neg)]
    return [conditions.pos] if guidance == 1 else [conditions.null, conditions.pos]


def _image_weights(conditions: Conditions, guidance: float) -> tuple[float, float, float]:
    """Weights of no_image, null and pos in a prediction that is guided by text and image."""
    scale = conditions.image_guidance
    return 1 - scale, scale - guidance, guidance


def apply_guidance(
    conditions: Conditions, predictions: Sequence[Prediction], guidance: float
) -> Prediction:
    """Classifier-free guidance, null + s (pos - null), by the image too, or Perp-Neg.

    With an image it is no_image + s_I (null - no_image) + s (pos - null), where null and pos have
    the image and s_I is its guidance scale.

    Perp-Neg is null + s (d - sum_i w_i (n_i - <n_i, d> / <d, d> d)) with d = pos - null and
    n_i = neg_i - null, the inner product over the eps of a row.

    Args:
        conditions: prompt, null prompt and the negative prompts of Perp-Neg with their weights.
        predictions: predictions under ``required_conditions``, in that order.
        guidance: guidance scale s.

    References:
        Armandpour et al. 2023, arXiv 2304.04968, eq. 7 (Perp-Neg). Brooks et al. 2023, arXiv
        2211.09800, eq. 3 (InstructPix2Pix).
    """
    if len(predictions) == 1:
        return predictions[0]
    if conditions.no_image is not None:
        ones = torch.ones_like(predictions[0].eps.flatten(1)[:, 0])
        weights = [ones * weight for weight in _image_weights(conditions, guidance) if weight]
        return Prediction.weighted_sum(predictions, weights)
    if not conditions.perp_neg:
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


def rescale_x0(
    x0: Float[Tensor, "b ..."],
    reference: Float[Tensor, "b ..."],
    fraction: float,
    group_size: int = 1,
) -> Float[Tensor, "b ..."]:
    """Rescale a guided x0 towards the standard deviation of another prediction.

    Large guidance scales make x0 too bright and too saturated. With f = std(reference) / std(x0),
    each std over all values of a group of views, the result is (1 - fraction + fraction f) x0.

    Args:
        x0: guided prediction of x0.
        reference: prediction of x0 under the prompt alone.
        fraction: how far it is rescaled, in [0, 1].
        group_size: adjacent rows that are rescaled together.

    References:
        Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16; of x0 and over groups in MVDream (Shi et
        al. 2023, arXiv 2308.16512).
    """
    stds = [v.reshape(len(v) // group_size, -1).std(1) for v in (reference, x0)]
    # an x0 without any variation stays
    factor = torch.where(stds[1] > 0, stds[0] / stds[1], 1.0)
    per_row = (1 - fraction + fraction * factor).repeat_interleave(group_size)
    return per_row.view(-1, *[1] * (x0.ndim - 1)) * x0


def check_predictions(
    prior: Prior, predictions: object, count: int, xt: Float[Tensor, "b ..."]
) -> None:
    """Check what a prior returned; does not read its values.

    Args:
        prior: the denoiser.
        predictions: what it returned.
        count: number of conditions.
        xt: x_t of each row.

    Raises:
        ValueError: if it is not one ``Prediction`` for each condition, with the shape of x_t.
    """
    name, form = type(prior).__qualname__, "a list with one Prediction(x0, eps) for each condition"
    if not isinstance(predictions, list | tuple) or len(predictions) != count:
        found = type(predictions).__name__
        if isinstance(predictions, list | tuple):
            found = f"{len(predictions)} for {count} conditions"
        raise ValueError(f"the prior {name} returned {found}; it must return {form}")
    for item in predictions:
        if not isinstance(item, Prediction):
            kind = type(item).__name__
            raise ValueError(f"the prior {name} returned a list of {kind}; it must return {form}")
        for part in (item.x0, item.eps):
            if not isinstance(part, Tensor) or part.shape != xt.shape:
                shape = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(
                    f"the prior {name} predicted {shape}; x0 and eps must have the shape of x_t, "
                    f"{list(xt.shape)}"
                )


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
    return guided_predictions(prior, xt, t, (conditions, guidance))[0]


def guided_predictions(
    prior: Prior,
    xt: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    *terms: tuple[Conditions, float],
) -> list[Prediction]:
    """Guided predictions at one x_t under several conditions or at several guidance scales.

    Every method states its direction in these terms, so that negative prompts, Perp-Neg and
    denoising steps reach all of them. Scale 1 is the prompt, of which Perp-Neg removes what the
    negative prompts say; scale 0 is the null prompt. The first denoising step of all terms is one
    network call, in which a condition that several terms need has one row.

    Args:
        prior: the denoiser.
        xt: x_t of each row.
        t: time of each row.
        terms: conditions and guidance scale s of each prediction.

    Returns:
        One prediction per term.
    """
    required = [required_conditions(conditions, guidance) for conditions, guidance in terms]
    distinct = {id(condition): condition for needed in required for condition in needed}
    found = prior(xt, t, *distinct.values())
    check_predictions(prior, found, len(distinct), xt)
    outputs = dict(zip(distinct, found, strict=True))
    predictions = []
    for (conditions, guidance), needed in zip(terms, required, strict=True):
        first = apply_guidance(conditions, [outputs[id(c)] for c in needed], guidance)
        predictions.append(denoise_multistep(prior, first, xt, t, conditions, guidance))
    return predictions
