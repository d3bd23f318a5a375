"""Shares of modes and density of a mixture, against torch.distributions."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from limbeck.metrics.mixture_modes import log_density, mode_error, mode_shares

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
