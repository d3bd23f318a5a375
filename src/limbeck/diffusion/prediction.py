"""What a denoiser says of x_t: the pair (x0, eps). Every parametrisation is one constructor, none converts into another."""

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
    """The denoiser's estimate of the clean sample and of the noise, tied by x_t = alpha x0 + sigma eps."""

    x0: Float[Tensor, "b ..."]
    eps: Float[Tensor, "b ..."]

    @staticmethod
    def from_output(kind: PredictionType, out: Float[Tensor, "b ..."], xt: Float[Tensor, "b ..."], alpha: Float[Tensor, "b"],
           sigma: Float[Tensor, "b"]) -> Prediction:  # fmt: skip
        """Read a network's output. ``flow`` is eps - x0 (alpha = 1 - t); ``v`` is alpha eps - sigma x0 (Salimans & Ho 2022).

        ``eps`` needs alpha > 0 and ``x0`` sigma > 0; ``v`` and ``flow`` are stable everywhere.
        """
        a, s = expand(alpha, xt), expand(sigma, xt)
        if kind == "eps":
            return Prediction((xt - s * out) / a, out)
        if kind == "x0":
            return Prediction(out, (xt - a * out) / s)
        if kind == "v":
            return Prediction(a * xt - s * out, s * xt + a * out)
        if kind == "flow":
            return Prediction(xt - s * out, xt + a * out)
        raise ValueError(
            f"unknown prediction type {kind!r}: choose one of {', '.join(get_args(PredictionType))}"
        )

    def lerp(self, other: Prediction, scale: float) -> Prediction:
        """self + scale (other - self): with self the null and other the positive prediction, guidance as diffusers counts it."""
        return Prediction(self.x0.lerp(other.x0, scale), self.eps.lerp(other.eps, scale))

    @staticmethod
    def weighted_sum(
        parts: Sequence[Prediction], shares: Sequence[Float[Tensor, "b"]]
    ) -> Prediction:
        """sum_k share_k part_k, row by row; the shares of a row sum to 1."""
        x0 = sum(
            expand(share, part.x0) * part.x0 for part, share in zip(parts, shares, strict=True)
        )
        eps = sum(
            expand(share, part.eps) * part.eps for part, share in zip(parts, shares, strict=True)
        )
        return Prediction(cast(Tensor, x0), cast(Tensor, eps))

    def output(
        self, kind: PredictionType, alpha: Float[Tensor, "b"], sigma: Float[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        """What a network of parametrisation ``kind`` would have said; of the true (x0, eps) it is the training target."""
        if kind == "eps":
            return self.eps
        if kind == "x0":
            return self.x0
        if kind == "v":
            return expand(alpha, self.x0) * self.eps - expand(sigma, self.x0) * self.x0
        return self.eps - self.x0
