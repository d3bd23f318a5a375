"""Baselines phi of Stein's identity: any scalar function of x_t makes a term of mean zero, E[eps phi - sigma grad phi] = 0."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.tensors import expand, to_device


@dataclass(frozen=True)
class Baseline(abc.ABC):
    """A scalar function phi of each row of x_t, differentiable by autograd."""

    @abc.abstractmethod
    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """phi(x_t, t) of each row."""


@dataclass(frozen=True)
class ConstantBaseline(Baseline):
    """phi = 1, so that the term is eps itself and the best mu is the best multiple of the added noise to subtract."""

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return xt.flatten(1).sum(1) * 0 + 1


@dataclass(frozen=True)
class QuadraticBaseline(Baseline):
    """phi = the mean square of x_t, half of it."""

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 0.5 * xt.flatten(1).square().mean(1)


def stein_control_variate(
    phi: Baseline,
    xt: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    sigma: Float[Tensor, "b"],
) -> Float[Tensor, "b ..."]:
    """eps phi(x_t) - sigma grad phi(x_t), the gradient in x_t: of mean zero over eps, for x_t = alpha x + sigma eps."""
    with torch.enable_grad():
        x = xt.detach().requires_grad_()
        value = phi(x, t)
        slope = torch.autograd.grad(value.sum(), x)[0]
    return expand(value.detach(), eps) * eps - expand(sigma, eps) * slope


class ControlVariateMoments:
    """Running <d, zeta> and <zeta, zeta> of each particle at each of ``bins`` equal parts of the times; d + mu zeta varies least
    for mu = -<d, zeta> / <zeta, zeta>."""

    def __init__(self, particles: int, bins: int, device: torch.device):
        self.sums = torch.zeros(2, particles, bins, dtype=torch.float64, device=device)
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None

    def mu(self, view: Int[Tensor, "b"], t: Float[Tensor, "b"], d: Float[Tensor, "b ..."], zeta: Float[Tensor, "b ..."]
           ) -> Float[Tensor, "b"]:  # fmt: skip
        """mu of each row by earlier steps only: were it of this d, mu zeta would not have mean zero. This d counts once settled."""
        last = self.sums.shape[-1] - 1
        rows = (
            to_device(view, self.sums.device),
            (t * (last + 1)).long().clamp(0, last).to(self.sums.device),
        )
        cross, square = self.sums[:, *rows]
        self._pending = (
            *rows,
            torch.stack([(d * zeta).flatten(1).sum(1), zeta.square().flatten(1).sum(1)]).to(
                self.sums
            ),
        )
        return torch.where(square > 0, -cross / square, 0.0)

    def settle(self, keep: float) -> None:
        """Let the last rows count, what those particles had seen there before ``keep`` times as much as it did."""
        if self._pending is not None:
            view, bins, new = self._pending
            self.sums[:, view, bins] = keep * self.sums[:, view, bins]
            for total, part in zip(self.sums, new, strict=True):
                total.index_put_(
                    (view, bins), part, accumulate=True
                )  # several views of a particle add up
            self._pending = None

    def tensors(self) -> dict[str, Tensor]:
        return {"sums": self.sums}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.sums = tensors["sums"].to(self.sums)
