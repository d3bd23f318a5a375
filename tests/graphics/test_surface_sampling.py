"""Points on the surface of a density, and their distances."""

from __future__ import annotations

import pytest
import torch
from tiny_pipeline import max_difference, rng
from torch import Tensor

from limbeck.graphics.geometry.surface_sampling import mean_neighbor_distance, sample_surface_points


def ball_density(points: Tensor) -> Tensor:
    """Dense within a radius of .6, and empty from .02 beyond."""
    return 200 * ((0.6 - points.norm(dim=1)) / 0.002).sigmoid()


def test_points_cover_the_surface_of_a_density():
    points = sample_surface_points(ball_density, 800, 1.3, rng(2))
    distance = points.norm(dim=1) - 0.6
    thickness = 1.3 * (12.6 / 800) ** 0.5  # dense points that near to empty ones count as surface
    assert float(distance.max()) < 0.02 and float(distance.min()) > -1.01 * thickness
    assert float(points.mean(0).norm()) < 0.06
    covariance = (points.T @ points) / len(points)
    assert max_difference(covariance * 3 / 0.52**2, torch.eye(3)) < 0.2


def test_an_empty_density_is_refused():
    with pytest.raises(ValueError, match="initialize from another run"):
        sample_surface_points(lambda points: torch.zeros(len(points)), 50, 1.3, rng())


def test_the_neighbor_distance_is_the_mean_of_three():
    x = torch.tensor([0.0, 1.0, 3.0, 6.0, 20.0])
    points = torch.stack([x, torch.zeros(5), torch.zeros(5)], 1)
    expected = [10 / 3, 8 / 3, 8 / 3, 14 / 3, 50 / 3]
    assert mean_neighbor_distance(points).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="2 or more Gaussians"):
        mean_neighbor_distance(points[:1])
