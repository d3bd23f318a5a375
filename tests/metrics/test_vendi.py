"""The Vendi score of sets whose score is known."""

import math

import numpy as np
import pytest
import torch

from limbeck.metrics.vendi import vendi_score


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, math.inf])
def test_equal_images_count_once_and_orthogonal_ones_each(order):
    image = torch.rand(1, 20, generator=torch.Generator().manual_seed(0))
    assert vendi_score(image.repeat(8, 1), order) == pytest.approx(1, abs=1e-6)
    assert vendi_score(3 * torch.eye(8, 20), order) == pytest.approx(8, abs=1e-6)
    assert vendi_score(torch.eye(4).repeat(5, 1), order) == pytest.approx(4, abs=1e-6)


def test_two_images_at_an_angle():
    # eigenvalues (1 +- cos) / 2
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    p = np.array([0.8, 0.2])
    assert vendi_score(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert vendi_score(x, 2) == pytest.approx(1 / (p**2).sum())
    assert vendi_score(x, math.inf) == pytest.approx(1 / 0.8)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_the_score_is_that_of_the_matrix_of_similarities(shape):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    unit = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    p = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    p = p[p > 1e-10]
    assert vendi_score(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


def test_what_has_no_score():
    with pytest.raises(ValueError, match="at least one image"):
        vendi_score(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="order must be"):
        vendi_score(torch.eye(2), -1)
