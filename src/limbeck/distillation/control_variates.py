"""Control variates from Stein's identity, E[eps phi(x_t) - sigma grad phi(x_t)] = 0."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.tensors import expand, to_device


@dataclass(frozen=True)
class Baseline(abc.ABC):
    """Scalar function phi of each row of x_t, differentiable by autograd."""

    @abc.abstractmethod
    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """phi(x_t, t) of each row.

        Args:
            xt: x_t of each row.
            t: time of each row.
        """


@dataclass(frozen=True)
class ConstantBaseline(Baseline):
    """phi = 1: the control variate is a multiple of the added noise."""

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        # a function of xt, so that autograd finds its gradient, which is 0
        return xt.flatten(1).sum(1) * 0 + 1


@dataclass(frozen=True)
class QuadraticBaseline(Baseline):
    """phi = half the mean square of x_t."""

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return 0.5 * xt.flatten(1).square().mean(1)


def stein_control_variate(
    phi: Baseline,
    xt: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    sigma: Float[Tensor, "b"],
) -> Float[Tensor, "b ..."]:
    """zeta = eps phi(x_t) - sigma grad phi(x_t), of mean zero over eps.

    Args:
        phi: the baseline.
        xt: x_t = alpha x + sigma eps of each row.
        eps: noise of each row.
        t: time of each row.
        sigma: sigma(t) of each row.
    """
    with torch.enable_grad():
        x = xt.detach().requires_grad_()
        value = phi(x, t)
        gradient = torch.autograd.grad(value.sum(), x)[0]
    return expand(value.detach(), eps) * eps - expand(sigma, eps) * gradient


class ControlVariateMoments:
    """Running moments <d, zeta> and <zeta, zeta> of each particle in bins of t.

    The variance of d + mu zeta is least at mu = -<d, zeta> / <zeta, zeta>.

    Attributes:
        sums: discounted sums of the two moments ``[2, particles, bins]``, float64.

    Args:
        particles: number of particles.
        bins: number of equal bins into which [0, 1] is divided.
        device: device of the sums.
    """

    def __init__(self, particles: int, bins: int, device: torch.device):
        self.sums = torch.zeros(2, particles, bins, dtype=torch.float64, device=device)
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None

    def mu(
        self,
        particle: Int[Tensor, "b"],
        t: Float[Tensor, "b"],
        d: Float[Tensor, "b ..."],
        zeta: Float[Tensor, "b ..."],
    ) -> Float[Tensor, "b"]:
        """Coefficient mu of each row from earlier steps.

        If mu depended on the current d, mu zeta would not have mean zero; the current moments
        count only after ``commit``.

        Args:
            particle: particle index of each row.
            t: time of each row.
            d: direction of each row.
            zeta: control variate of each row.
        """
        last = self.sums.shape[-1] - 1
        rows = to_device(particle, self.sums.device)
        bins = (t * (last + 1)).long().clamp(0, last).to(self.sums.device)
        cross, square = self.sums[:, rows, bins]
        moments = torch.stack([(d * zeta).flatten(1).sum(1), zeta.square().flatten(1).sum(1)])
        self._pending = (rows, bins, moments.to(self.sums))
        return torch.where(square > 0, -cross / square, 0.0)

    def commit(self, decay: float) -> None:
        """Add the moments of the last call of ``mu``; earlier ones of these bins are discounted.

        Args:
            decay: factor of the earlier sums, in [0, 1].
        """
        if self._pending is None:
            return
        particle, bins, moments = self._pending
        self.sums[:, particle, bins] = decay * self.sums[:, particle, bins]
        for total, part in zip(self.sums, moments, strict=True):
            # accumulate: several views of one particle add up
            total.index_put_((particle, bins), part, accumulate=True)
        self._pending = None

    def tensors(self) -> dict[str, Tensor]:
        return {"sums": self.sums}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.sums = tensors["sums"].to(self.sums)
