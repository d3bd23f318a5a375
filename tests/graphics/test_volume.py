"""Ray marching: where samples lie, and their weights."""

from __future__ import annotations

import pytest
import torch

from limbeck.graphics.cameras.camera import orbit_cameras, turntable_cameras
from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid
from limbeck.graphics.rendering.volume import RaySamples, ray_aabb_intersect, ray_march


def test_weights_and_transmittance_add_up_to_one():
    density = torch.rand(24, dtype=torch.float64) * 9
    samples = RaySamples(
        torch.arange(24), torch.zeros(24), torch.zeros(24, 3), torch.zeros(4, 6), 0.1
    )
    weights = samples.render_weights(density)
    transmittance = torch.exp(-density.view(4, 6).sum(1) * 0.1)
    assert torch.allclose(weights.view(4, 6).sum(1), 1 - transmittance, atol=1e-12)
    even = torch.arange(24) % 2 == 0
    dropped = samples.select(even).render_weights(density[even])
    empty = samples.render_weights(torch.where(even, density, 0.0))[even]
    assert torch.allclose(dropped, empty, atol=1e-12)  # dropped samples count as empty


def camera_on_axis(distance: float):
    return orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), distance, 40.0)


def test_rays_enter_and_leave_the_box_at_its_faces():
    outside, inside = camera_on_axis(3.0), camera_on_axis(0.5)
    near, far = ray_aabb_intersect(outside.eye, outside.directions(3, 3), 1.0)
    assert float(near[0, 1, 1]) == pytest.approx(2.0, abs=1e-5)
    assert float(far[0, 1, 1]) == pytest.approx(4.0, abs=1e-5)
    near, far = ray_aabb_intersect(inside.eye, inside.directions(3, 3), 1.0)
    assert float(near[0, 1, 1]) == 0 and float(far[0, 1, 1]) == pytest.approx(1.5, abs=1e-5)
    behind = camera_on_axis(-3.0)
    near, far = ray_aabb_intersect(behind.eye, -behind.directions(3, 3), 1.0)
    assert bool((far < near).all())  # rays away from the box


def test_samples_lie_on_their_rays_inside_the_box():
    camera = turntable_cameras(2, 30.0, 3.0, 40.0)
    directions = camera.directions(5, 7)
    jitter = torch.full((2, 5, 7), 0.5)
    samples = ray_march(camera.eye, directions, 0.8, 40, jitter, OccupancyGrid(4, 0.8))
    eye = camera.eye[samples.ray_index // 35]
    direction = directions.reshape(-1, 3)[samples.ray_index]
    points = eye + samples.distances[:, None] * direction
    assert torch.allclose(samples.points, points, atol=1e-6)
    assert float(samples.points.abs().max()) <= 0.8 + 1e-5
