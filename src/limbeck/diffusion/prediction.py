"""Predictions of a denoiser: the pair (x0, eps), read from any parametrization of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.tensors import expand

PredictionType = Literal["eps", "x0", "v", "flow"]


@dataclass(frozen=True)
class Prediction:
    """A denoiser's estimate of the clean sample and of the noise, with x_t = alpha x0 + sigma eps.

    Attributes:
        x0: estimate of the clean sample ``[B, ...]``.
        eps: estimate of the noise ``[B, ...]``.
    """

    x0: Float[Tensor, "b ..."]
    eps: Float[Tensor, "b ..."]

    @staticmethod
    def from_output(
        prediction_type: PredictionType,
        output: Float[Tensor, "b ..."],
        xt: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "b"],
        sigma: Float[Tensor, "b"],
    ) -> Prediction:
        """Read the output of a network.

        ``eps`` needs alpha > 0 and ``x0`` needs sigma > 0; ``v`` and ``flow`` are stable at every
        time.

        Args:
            prediction_type: parametrization of the output: eps; x0; v = alpha eps - sigma x0
                (Salimans & Ho 2022); or flow = eps - x0, of schedules with alpha = 1 - sigma.
            output: output of the network at x_t.
            xt: its input x_t.
            alpha: alpha(t) of each row.
            sigma: sigma(t) of each row.

        Raises:
            ValueError: if the prediction type is unknown.
        """
        a, s = expand(alpha, xt), expand(sigma, xt)
        if prediction_type == "eps":
            return Prediction((xt - s * output) / a, output)
        if prediction_type == "x0":
            return Prediction(output, (xt - a * output) / s)
        if prediction_type == "v":
            return Prediction(a * xt - s * output, s * xt + a * output)
        if prediction_type == "flow":
            return Prediction(xt - s * output, xt + a * output)
        raise ValueError(
            f"unknown prediction type {prediction_type!r}: "
            f"choose one of {', '.join(get_args(PredictionType))}"
        )

    def lerp(self, other: Prediction, scale: float) -> Prediction:
        """self + scale (other - self).

        With ``self`` the null and ``other`` the positive prediction this is classifier-free
        guidance, ``scale`` counted as in diffusers.
        """
        return Prediction(self.x0.lerp(other.x0, scale), self.eps.lerp(other.eps, scale))

    @staticmethod
    def weighted_sum(
        predictions: Sequence[Prediction], weights: Sequence[Float[Tensor, "b"]]
    ) -> Prediction:
        """Weighted sum of predictions, row by row; the weights of a row must sum to 1."""
        x0 = sum(
            expand(weight, prediction.x0) * prediction.x0
            for prediction, weight in zip(predictions, weights, strict=True)
        )
        eps = sum(
            expand(weight, prediction.eps) * prediction.eps
            for prediction, weight in zip(predictions, weights, strict=True)
        )
        return Prediction(cast(Tensor, x0), cast(Tensor, eps))

    def to_output(
        self,
        prediction_type: PredictionType,
        alpha: Float[Tensor, "b"],
        sigma: Float[Tensor, "b"],
    ) -> Float[Tensor, "b ..."]:
        """Inverse of ``from_output``; for the true (x0, eps) it is the training target.

        Args:
            prediction_type: parametrization of the output.
            alpha: alpha(t) of each row.
            sigma: sigma(t) of each row.
        """
        if prediction_type == "eps":
            return self.eps
        if prediction_type == "x0":
            return self.x0
        if prediction_type == "v":
            return expand(alpha, self.x0) * self.eps - expand(sigma, self.x0) * self.x0
        return self.eps - self.x0
