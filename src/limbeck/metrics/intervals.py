"""Confidence intervals of shares."""

from __future__ import annotations

import math

Z_95 = 1.959964  #: 97.5 % quantile of the standard normal distribution


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of ``count`` independent images.

    Args:
        share: observed share, 0 to 1.
        count: number of images, at least 1.

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    z2 = Z_95**2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    variance = share * (1 - share) / count + z2 / (4 * count**2)
    half = Z_95 / (1 + z2 / count) * math.sqrt(variance)
    return max(center - half, 0.0), min(center + half, 1.0)
