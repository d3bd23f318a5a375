"""KID: kernel distance of two sets of features."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.mmd import unbiased_mmd


def kid(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Unbiased squared MMD with the kernel (x . y / d + 1)^3, of features of any network.

    Range: 0 for equal laws in the mean, negative values are noise, unbounded above; in papers often
    times 1000. Sample size: usable from 256 images on. Unbiased, so that values at different sample
    sizes are comparable, but only those of one network.

    Raises:
        ValueError: with fewer than two rows, or features of different dimensions.

    References:
        Binkowski et al., "Demystifying MMD GANs", 2018, arXiv 1801.01401, section 4.
    """
    dim = a.shape[1]
    return unbiased_mmd(a, b, lambda x, y: (x @ y.T / dim + 1) ** 3)
