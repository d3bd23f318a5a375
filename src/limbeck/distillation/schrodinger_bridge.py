"""The Schrodinger bridge of I2SB (Liu et al. 2023, arXiv 2302.05872) between two images."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

_BETA_MIN, _BETA_MAX, _NUM_BETAS = 1e-4, 3e-4, 1000  #: of I2SB, with beta_max .3


@dataclass(frozen=True)
class SchrodingerBridge:
    """The bridge of I2SB from x_0 at tau = 0 to x_1 at tau = 1, at one tau.

    sqrt(beta) is linear from tau = 0 to 1/2 and mirrored after it.

    Attributes:
        std_fwd: (int_0^tau beta)^(1/2), the standard deviation of x_tau given x_0.
        std_bwd: (int_tau^1 beta)^(1/2), that given x_1.

    References:
        Liu et al. 2023, arXiv 2302.05872, eq. 11 (I2SB).
    """

    std_fwd: float
    std_bwd: float

    @staticmethod
    def at(tau: float) -> SchrodingerBridge:
        """Return the bridge at a time.

        Args:
            tau: time, in [0, 1].
        """
        half = _beta_integral(0.5)
        fwd = _beta_integral(tau) if tau <= 0.5 else 2 * half - _beta_integral(1 - tau)
        return SchrodingerBridge(fwd**0.5, max(2 * half - fwd, 0.0) ** 0.5)

    @property
    def m1(self) -> float:
        """Weight of x_1 in the mean of x_tau; that of x_0 is 1 - m1."""
        return self.std_fwd**2 / (self.std_fwd**2 + self.std_bwd**2)

    @property
    def std(self) -> float:
        """Standard deviation of x_tau given both ends."""
        return self.std_bwd * self.m1**0.5

    def sample(
        self, x0: Float[Tensor, "b ..."], x1: Float[Tensor, "b ..."], n: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b ..."]:
        """x_tau = (1 - m1) x_0 + m1 x_1 + std n.

        Args:
            x0: end at tau = 0.
            x1: end at tau = 1.
            n: standard normal noise.
        """
        return x0.lerp(x1, self.m1) + self.std * n

    def drift(
        self, x_tau: Float[Tensor, "b ..."], x0: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b ..."]:
        """b = (x_tau - x_0) / std_fwd, what the network of I2SB learns (its eq. 12).

        Args:
            x_tau: points on the bridge.
            x0: its end at tau = 0.
        """
        return (x_tau - x0) / self.std_fwd


def _beta_integral(tau: float) -> float:
    """Integral of the rising half of beta over [0, tau]."""
    low, high = _BETA_MIN**0.5, _BETA_MAX**0.5
    slope = high - low
    return _NUM_BETAS * ((low + slope * tau) ** 3 - low**3) / (3 * slope)
