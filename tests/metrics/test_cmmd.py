"""CMMD against its definition, and its bias against the paper's estimator."""

import numpy as np
import pytest
import torch

from limbeck.metrics.cmmd import cmmd


def draw(count, seed, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 32, dtype=torch.float64, generator=rng) + shift


def kernel_matrix(x, y):
    """Gaussian kernel of sigma 10 of unit vectors, from differences."""
    x, y = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in (x.numpy(), y.numpy()))
    return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 200)


def test_cmmd_is_the_unbiased_form_of_the_paper():
    a, b = draw(11, 0), draw(8, 1, 0.3)
    aa, bb, ab = kernel_matrix(a, a), kernel_matrix(b, b), kernel_matrix(a, b)
    expected = (aa.sum() - 11) / 110 + (bb.sum() - 8) / 56 - 2 * ab.mean()
    assert cmmd(a, b) == pytest.approx(expected, abs=1e-12)
    assert cmmd(3 * a, b) == pytest.approx(expected, abs=1e-12)  # lengths do not matter


def test_cmmd_is_zero_in_the_mean_where_the_biased_form_is_not():
    pairs = [(draw(32, 2 * i), draw(32, 2 * i + 1)) for i in range(100)]
    unbiased = 1000 * torch.tensor([cmmd(a, b) for a, b in pairs])
    biased = [kernel_matrix(a, a).mean() + kernel_matrix(b, b).mean() for a, b in pairs]
    biased = np.mean(biased) - 2 * np.mean([kernel_matrix(a, b).mean() for a, b in pairs])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / 10
    assert 1000 * biased == pytest.approx(1000 * 2 / 32 / 100, rel=0.1)  # 2 (1 - E k) / n
