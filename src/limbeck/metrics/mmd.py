"""Maximum mean discrepancy of two sets of features, for any kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]  #: maps [n, d] and [m, d] to [n, m]
_CHUNK = 1024  #: rows of a kernel matrix at once, so that 30,000 images fit


def unbiased_mmd(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], kernel: Kernel) -> float:
    """Squared maximum mean discrepancy as a U-statistic, in float64.

    E k(a, a') + E k(b, b') - 2 E k(a, b), where a and a' are different rows. Its expectation is 0
    for equal laws at any sample size, so it can be negative.

    Args:
        a: features of one set.
        b: features of the other.
        kernel: the kernel.

    Raises:
        ValueError: with fewer than two rows, or features of different dimensions.

    References:
        Gretton et al., "A kernel two-sample test", 2012, eq. 3.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"pairs need at least 2 rows, not {len(a)} and {len(b)}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared"
        )
    a, b = a.double(), b.double()
    across = sum(kernel(rows, b).sum().item() for rows in a.split(_CHUNK)) / (len(a) * len(b))
    return _mean_of_pairs(a, kernel) + _mean_of_pairs(b, kernel) - 2 * across


def _mean_of_pairs(x: Float[Tensor, "n d"], kernel: Kernel) -> float:
    """Mean of the kernel over pairs of different rows."""
    total = 0.0
    for start in range(0, len(x), _CHUNK):
        values = kernel(x[start : start + _CHUNK], x)
        total += (values.sum() - values.diagonal(offset=start).sum()).item()
    return total / (len(x) * (len(x) - 1))


def rbf_kernel(sigma: float) -> Kernel:
    """The kernel exp(-|x - y|^2 / (2 sigma^2))."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(torch.cdist(x, y).square() / (-2 * sigma**2))

    return kernel
