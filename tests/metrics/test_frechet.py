"""Fréchet distances of sets with known moments."""

import pytest
import torch

from limbeck.metrics.frechet import frechet_distance

F64 = torch.float64


def sample_with_moments(n, mean, root):
    """A set whose mean and covariance are exactly ``mean`` and ``root root^T``."""
    x = torch.randn(n, len(mean), dtype=F64, generator=torch.Generator().manual_seed(1))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x @ root.T + mean


def test_frechet_distance_is_exact_for_gaussians():
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    # with common eigenvectors: |m|^2 + sum (sqrt a - sqrt b)^2
    rng = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=F64, generator=rng))[0]
    root_a, root_b = (
        basis @ torch.diag(torch.tensor(values, dtype=F64)) @ basis.T
        for values in ((1.0, 2.0, 3.0), (2.0, 2.0, 0.5))
    )
    a = sample_with_moments(50, torch.zeros(3, dtype=F64), root_a)
    b = sample_with_moments(60, mean, root_b)
    assert frechet_distance(a, b) == pytest.approx(5.25 + 1 + 0 + 6.25, abs=1e-9)


def test_frechet_distance_without_common_eigenvectors():
    rng = torch.Generator().manual_seed(3)
    x, y = (torch.randn(n, 6, dtype=F64, generator=rng) for n in (40, 30))
    a, b = torch.cov(x.T), torch.cov(y.T)
    cross = torch.linalg.eigvals(a @ b).real.clamp_min(0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_few_rows():
    x = torch.randn(40, 6, dtype=F64, generator=torch.Generator().manual_seed(3))
    assert frechet_distance(x[:3], x[:3]) == pytest.approx(0, abs=1e-6)  # rank-deficient
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_distance(x[:1], x)
