"""KID against its definition."""

import numpy as np
import pytest
import torch

from limbeck.metrics import mmd
from limbeck.metrics.kid import kid


def draw(count, dim, seed, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=rng) + shift


def test_kid_is_the_mean_over_pairs_of_different_images():
    a, b = draw(7, 5, 0), draw(9, 5, 1, 0.4)
    x, y = a.numpy(), b.numpy()
    kernel = lambda u, v: (np.dot(u, v) / 5 + 1) ** 3  # noqa: E731
    own = [
        np.mean([kernel(u, v) for i, u in enumerate(s) for j, v in enumerate(s) if i != j])
        for s in (x, y)
    ]
    expected = sum(own) - 2 * np.mean([kernel(u, v) for u in x for v in y])
    assert kid(a, b) == pytest.approx(expected, rel=1e-10)


def test_kid_does_not_depend_on_the_chunks(monkeypatch):
    a, b = draw(20, 5, 0), draw(13, 5, 1)
    expected = kid(a, b)
    monkeypatch.setattr(mmd, "_CHUNK", 6)
    assert kid(a, b) == pytest.approx(expected, rel=1e-10)


def test_kid_has_no_bias_of_small_samples():
    values = torch.tensor([kid(draw(16, 8, 2 * i), draw(16, 8, 2 * i + 1)) for i in range(400)])
    error = values.std() / 20
    assert abs(values.mean()) < 3 * error
    assert kid(draw(64, 8, 0), draw(64, 8, 1, 0.5)) > 10 * error


def test_kid_needs_pairs_of_one_network():
    with pytest.raises(ValueError, match="at least 2 rows, not 1 and 3"):
        kid(draw(1, 4, 0), draw(3, 4, 0))
    with pytest.raises(ValueError, match="4 and of 5 dimensions"):
        kid(draw(3, 4, 0), draw(3, 5, 0))
