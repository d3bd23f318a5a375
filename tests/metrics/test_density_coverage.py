"""Density and coverage against loops over all pairs, and their values for equal laws."""

import numpy as np
import pytest
import torch

from limbeck.metrics.density_coverage import coverage, density


def draw(count, seed, shift=0.0, dim=3):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=rng) + shift


def test_density_and_coverage_are_counts_of_balls():
    images, reference = draw(30, 0, 0.7), draw(40, 1)
    x, y = images.numpy(), reference.numpy()
    d = np.linalg.norm(x[:, None] - y[None], axis=-1)
    own = np.sort(np.linalg.norm(y[:, None] - y[None], axis=-1), 1)
    for k in (2, 5):
        hits = d < own[:, k]
        assert density(images, reference, k) == pytest.approx(hits.sum() / (k * 30))
        assert coverage(images, reference, k) == pytest.approx(hits.any(0).mean())


def test_equal_laws_have_density_one_and_the_expected_coverage():
    pairs = [(draw(64, 2 * i, dim=8), draw(64, 2 * i + 1, dim=8)) for i in range(60)]
    assert np.mean([density(a, b) for a, b in pairs]) == pytest.approx(1, abs=0.05)
    covered = np.mean([coverage(a, b) for a, b in pairs])
    assert covered == pytest.approx(1 - 2**-5, abs=0.015)


def test_one_mode_of_two():
    x = draw(20, 0)
    both = torch.cat([x, x + 100])
    assert coverage(x, both) == 0.5 and density(x, both) == 1  # each ball holds five
    assert coverage(x + 50, both) == density(x + 50, both) == 0
