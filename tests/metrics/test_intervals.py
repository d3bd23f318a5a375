"""Confidence intervals of shares."""

from __future__ import annotations

import pytest

from limbeck.metrics.intervals import wilson_interval


def test_wilson_interval_against_published_values() -> None:
    # Newcombe 1998, table I, method 3
    for hits, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(hits / count, count) == pytest.approx((low, high), abs=6e-5)
    with pytest.raises(ValueError, match="at least 1"):
        wilson_interval(0.5, 0)
