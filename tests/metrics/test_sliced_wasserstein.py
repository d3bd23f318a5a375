"""Sliced Wasserstein distances that are known."""

import math

import numpy as np
import pytest
import torch

from limbeck.metrics.sliced_wasserstein import sliced_wasserstein


def draw(count, dim, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=rng)


def test_a_shift_has_its_mean_square_over_directions():
    x = draw(50, 4, 0)
    shift = torch.tensor([3.0, 0.0, 0.0, 4.0])
    found = sliced_wasserstein(x, x + shift, num_projections=20_000)
    assert found == pytest.approx(5 / math.sqrt(4), rel=0.02)
    assert sliced_wasserstein(x, x.flip(0)) < 1e-12


def test_in_one_dimension_it_is_the_distance_of_sorted_points():
    x, y = draw(40, 1, 1), 2 * draw(40, 1, 2) + 1
    expected = np.sqrt(np.mean((np.sort(x[:, 0].numpy()) - np.sort(y[:, 0].numpy())) ** 2))
    assert sliced_wasserstein(x, y) == pytest.approx(expected)


def test_samples_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        sliced_wasserstein(draw(4, 2, 0), draw(5, 2, 0))
