"""Marching tetrahedra: topology, accuracy and gradients of extracted surfaces."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from meshes import euler_characteristic, is_closed, sphere
from tiny_pipeline import max_difference, normal

from limbeck.graphics.geometry.marching_tetrahedra import (
    TetGrid,
    ellipsoid_sdf,
    kuhn_tetrahedra,
    level_set_to_sdf,
    triangle_table,
)
from limbeck.graphics.geometry.mesh import face_normals, mesh_volume


def test_kuhn_tetrahedra_fill_a_cube_and_are_positively_oriented():
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    a, b, c, d = corners[kuhn_tetrahedra()].unbind(1)
    volumes = ((b - a) * torch.linalg.cross(c - a, d - a)).sum(1) / 6
    assert max_difference(volumes, torch.full((6,), 1 / 6)) < 1e-7


def test_the_triangles_of_all_16_cases_separate_inside_from_outside():
    table = triangle_table()
    inside = torch.tensor([[case >> i & 1 for i in range(4)] for case in range(16)])
    num_triangles = [[0, 1, 2, 1, 0][n] for n in inside.sum(1).tolist()]
    assert (table[..., 0] >= 0).sum(1).tolist() == num_triangles
    edges = torch.tensor([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    for case in range(16):
        used = edges[table[case][table[case] >= 0].unique()]
        crossed = inside[case][edges].sum(1) == 1
        assert sorted(used.tolist()) == edges[crossed].tolist()


@pytest.mark.parametrize("cells", [5, 12, 31])
def test_a_sphere_is_closed_has_genus_0_and_outward_normals(cells):
    vertices, mesh = sphere(cells)
    assert is_closed(mesh) and euler_characteristic(mesh) == 2
    outward = (face_normals(vertices, mesh) * vertices[mesh.faces].mean(1)).sum(1)
    assert bool((outward >= 0).all())


def test_a_torus_is_closed_and_has_genus_1():
    grid = TetGrid(24, 1.0)
    x, y, z = grid.vertices().unbind(1)
    values = ((x**2 + z**2).sqrt() - 0.6).square() + y**2 - 0.25**2
    _, mesh = grid.extract_surface(values, grid.vertices())
    assert is_closed(mesh) and euler_characteristic(mesh) == 0


def test_random_distances_on_a_deformed_grid_give_a_closed_surface():
    grid = TetGrid(9, 1.0)
    sdf = torch.where(grid.boundary_mask(), 1.0, normal(1000, seed=1).float())
    vertices, mesh = grid.extract_surface(sdf, grid.deform(3 * normal(1000, 3, seed=2).float()))
    assert is_closed(mesh) and len(mesh.faces) > 1000 and len(vertices) == mesh.num_vertices


def test_radius_area_and_volume_of_a_sphere_converge_at_second_order():
    errors = []
    for cells in (12, 24, 48):
        vertices, mesh = sphere(cells)
        radius = (vertices.norm(dim=1) - 0.7).abs().max()
        area = face_normals(vertices, mesh).norm(dim=1).sum() / 2 - 4 * math.pi * 0.49
        volume = mesh_volume(vertices, mesh) - 4 / 3 * math.pi * 0.343
        errors.append([radius.item(), abs(area.item()), abs(volume.item())])
    for coarse, fine in pairwise(errors):
        assert all(3.2 < a / b < 4.8 for a, b in zip(coarse, fine, strict=True)), errors
    sagitta = 3 * (2 / 48) ** 2 / (8 * 0.7)  # height of an arc over the diagonal of a cube
    assert errors[-1][0] < sagitta


def test_vertices_have_the_gradients_of_finite_differences():
    grid = TetGrid(4, 1.0)
    sdf = grid.vertices().double().norm(dim=1) - 0.6
    offsets = 0.3 * normal(125, 3, seed=3)
    weight = normal(*grid.extract_surface(sdf, grid.deform(offsets))[0].shape, seed=5)

    def loss(sdf, offsets):
        return (grid.extract_surface(sdf, grid.deform(offsets))[0] * weight).sum()

    assert torch.autograd.gradcheck(loss, (sdf.requires_grad_(), offsets.requires_grad_()))


def test_deformation_moves_a_vertex_by_at_most_half_a_cell():
    grid = TetGrid(6, 1.5)
    limit = grid.deform(torch.full((343, 3), 1e3))
    assert max_difference(limit, grid.vertices() + 0.25) < 1e-6


def test_only_cubes_at_the_surface_are_split():
    """Twice the cells cost four times the cubes, not eight times."""
    counts = []
    for cells in (16, 32, 64):
        grid = TetGrid(cells, 1.0)
        counts.append(len(grid._crossed_tetrahedra(grid.vertices().norm(dim=1) < 0.7)))
    assert all(3.7 < fine / coarse < 4.3 for coarse, fine in pairwise(counts))


def test_first_order_distances_are_exact_for_a_sphere_and_a_plane():
    grid = TetGrid(20, 1.0)
    points = grid.vertices()
    assert max_difference(ellipsoid_sdf(points, (0.6, 0.6, 0.6)), points.norm(dim=1) - 0.6) < 1e-6
    plane = points @ torch.tensor([0.6, 0.0, 0.8]) - 0.05
    assert max_difference(level_set_to_sdf(7 * plane, grid), plane.clamp(-0.2, 0.2)) < 1e-5
