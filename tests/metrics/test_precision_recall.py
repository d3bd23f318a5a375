"""Precision and recall against loops over all pairs."""

import numpy as np
import pytest
import torch

from limbeck.metrics.precision_recall import neighbor_radii, precision, recall


def draw(count, seed, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, dtype=torch.float64, generator=rng) + shift


def distances(a, b):
    return np.sqrt(((a.numpy()[:, None] - b.numpy()[None]) ** 2).sum(-1))


def radii(x, k):
    return np.sort(distances(x, x), 1)[:, k]  # position 0 is the image itself


def test_precision_and_recall_are_shares_of_images_in_balls():
    images, reference = draw(30, 0, 0.7), draw(40, 1)
    d = distances(images, reference)
    for k in (1, 3, 5):
        assert np.allclose(neighbor_radii(reference, k), radii(reference, k))
        inside = [any(d[i, j] <= radii(reference, k)[j] for j in range(40)) for i in range(30)]
        assert precision(images, reference, k) == pytest.approx(np.mean(inside))
        found = [any(d[i, j] <= radii(images, k)[i] for i in range(30)) for j in range(40)]
        assert recall(images, reference, k) == pytest.approx(np.mean(found))


def test_known_sets():
    x = draw(20, 0)
    assert precision(x, x) == recall(x, x) == 1
    assert precision(x + 100, x) == recall(x + 100, x) == 0
    # one mode of two: all images are good, and half of the reference is found
    both = torch.cat([x, x + 100])
    assert precision(x, both) == 1 and recall(x, both) == 0.5
    with pytest.raises(ValueError, match="more than 5 images, not 5"):
        precision(x, x[:5])
