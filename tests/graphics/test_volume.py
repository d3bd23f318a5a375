"""Ray marching: where samples lie, and their weights."""

from __future__ import annotations

import pytest
import torch

from limbeck.graphics.cameras.camera import orbit_cameras, turntable_cameras
from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid
from limbeck.graphics.rendering.volume import RaySamples, ray_aabb_intersect, ray_march


def test_weights_and_transmittance_add_up_to_one():
    density = torch.rand(24, dtype=torch.float64) * 9
    index = torch.arange(24)
    samples = RaySamples(index // 6, index % 6, torch.zeros(24), torch.zeros(24, 3), 0.1, 4, 6)
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


@pytest.mark.parametrize(
    ("samples", "resolution", "share"), [(40, 4, 0.3), (61, 24, 0.02), (9, 7, 1)]
)
def test_marching_in_groups_keeps_the_samples_in_occupied_cells(samples, resolution, share):
    """Against a test of every sample on its own: the same samples, bit for bit, in order."""
    rng, bound = torch.Generator().manual_seed(0), 0.9
    grid = OccupancyGrid(resolution, bound)
    camera = turntable_cameras(3, 25.0, 2.2, 50.0)
    directions, jitter = camera.directions(11, 13), torch.rand(3, 11, 13, generator=rng)
    for _ in range(2):  # the second occupancy must not be taken for the first
        grid.occupied.copy_(torch.rand(grid.occupied.shape, generator=rng) < share)
        marched = ray_march(camera.eye, directions, bound, samples, jitter, grid)
        near, far = ray_aabb_intersect(camera.eye, directions, bound)
        spacing = 2 * bound * 3**0.5 / samples
        distances = near[..., None] + (torch.arange(samples) + jitter[..., None]) * spacing
        points = camera.eye[:, None, None, None] + distances[..., None] * directions[..., None, :]
        kept = (distances < far[..., None]).flatten() & grid.contains(points.view(-1, 3))
        index = kept.nonzero().squeeze(1)
        assert torch.equal(marched.ray_index * samples + marched.column, index)
        assert torch.equal(marched.distances, distances.flatten()[index])
        assert torch.equal(marched.points, points.view(-1, 3)[index])
        assert 0 < len(index) < kept.numel()


def test_packed_weights_and_their_gradient_are_those_of_a_dense_table():
    """NeRF eq. 3 by cumulative products over a table whose dropped samples are empty."""
    rng = torch.Generator().manual_seed(1)
    kept = torch.rand(30, 20, generator=rng) < 0.4
    kept[3] = kept[29] = False  # rays without a sample
    ray, column = kept.nonzero(as_tuple=True)
    density = torch.rand(len(ray), generator=rng, dtype=torch.float64).mul(40).requires_grad_()
    points = torch.zeros(len(ray), 3)
    samples = RaySamples(ray, column, torch.zeros(len(ray)), points, 0.05, *kept.shape)
    weights = samples.render_weights(density)
    alpha = 1 - torch.exp(
        -0.05 * torch.zeros(kept.shape).double().index_put((ray, column), density)
    )
    transmittance = (1 - alpha).cumprod(1).roll(1, 1)
    transmittance[:, 0] = 1
    expected = (transmittance * alpha)[ray, column]
    assert torch.allclose(weights, expected, atol=1e-12)
    direction = torch.randn(len(ray), generator=rng, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * direction).sum(), density)
    (exact,) = torch.autograd.grad((expected * direction).sum(), density)
    assert torch.allclose(gradient, exact, atol=1e-12)
