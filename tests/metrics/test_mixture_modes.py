"""Shares of modes and density of a mixture, against torch.distributions."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from limbeck.metrics.mixture_modes import (
    covered_modes,
    log_density,
    mode_error,
    mode_shares,
    mode_spread,
)

MEANS = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]], dtype=torch.float64)
STDS = torch.tensor([0.5, 0.35, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([5.0, 3.0, 2.0], dtype=torch.float64)


def test_the_density_is_that_of_torch():
    components = Independent(Normal(MEANS, STDS[:, None].expand(3, 2)), 1)
    law = MixtureSameFamily(Categorical(WEIGHTS), components)
    x = 2 * torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(log_density(x, MEANS, STDS, WEIGHTS), law.log_prob(x), rtol=1e-10)
    # a weight of 0 leaves its component out
    first = Independent(Normal(MEANS[0], STDS[0].expand(2)), 1).log_prob(x)
    only = torch.tensor([1.0, 0, 0])
    assert torch.allclose(log_density(x, MEANS, STDS, only), first, rtol=1e-10)


def test_shares_and_their_error():
    points = torch.cat([MEANS[:1].repeat(6, 1), MEANS[1:2].repeat(4, 1)]) + 0.1
    shares = mode_shares(points, MEANS)
    assert shares.tolist() == pytest.approx([0.6, 0.4, 0])
    assert mode_error(shares, WEIGHTS) == pytest.approx(0.2)
    assert mode_error(shares, torch.tensor([0.0, 0.0, 1.0])) == pytest.approx(1)


def test_points_between_the_modes_cover_none():
    rng = torch.Generator().manual_seed(0)
    rows = torch.multinomial(WEIGHTS, 200, replacement=True, generator=rng)
    noise = torch.randn(200, 2, dtype=torch.float64, generator=rng)
    draws = MEANS[rows] + STDS[rows, None] * noise
    assert covered_modes(draws, MEANS, STDS, WEIGHTS) == 3
    assert covered_modes(draws[rows != 2], MEANS, STDS, WEIGHTS) == 2
    assert covered_modes(draws, MEANS, STDS, torch.tensor([1.0, 0, 0])) == 1  # others do not count
    assert covered_modes(torch.zeros(50, 2), MEANS, STDS, WEIGHTS) == 0
    # of the third mode, a quarter of its weight of .2 are 10 of 200 points
    few = torch.cat([draws[rows != 2].repeat(2, 1)[:190], MEANS[2:].repeat(10, 1)])
    assert covered_modes(few, MEANS, STDS, WEIGHTS) == 3
    assert covered_modes(few[:-1], MEANS, STDS, WEIGHTS) == 2  # 9 of 199 are less


def test_spread_is_one_for_true_draws_and_zero_for_means():
    rng = torch.Generator().manual_seed(1)
    rows = torch.randint(3, (20_000,), generator=rng)
    noise = torch.randn(20_000, 2, dtype=torch.float64, generator=rng)
    draws = MEANS[rows] + STDS[rows, None] * noise
    assert mode_spread(draws, MEANS, STDS) == pytest.approx(1, abs=0.02)
    assert mode_spread(MEANS[rows] + 0.5 * (draws - MEANS[rows]), MEANS, STDS) == pytest.approx(
        0.5, abs=0.01
    )
    assert mode_spread(MEANS, MEANS, STDS) == 0
