"""Energy distance."""

import pytest
import torch

from limbeck.metrics.energy_distance import energy_distance


def test_normal_laws_have_their_known_distance():
    # E|N(0, 2)| = 2 / sqrt(pi); E|N(m, 2)| for m = 3 is 3.04498 (folded normal)
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4000, 1, dtype=torch.float64, generator=rng) for _ in range(2))
    assert energy_distance(a, b) == pytest.approx(0, abs=0.005)
    expected = 2 * 3.04498 - 2 * 1.128379
    assert energy_distance(a, b + 3) == pytest.approx(expected, rel=0.03)


def test_a_single_point_has_no_distance():
    with pytest.raises(ValueError, match="at least 2 rows"):
        energy_distance(torch.zeros(1, 2), torch.zeros(3, 2))
