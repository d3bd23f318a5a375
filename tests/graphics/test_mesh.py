"""Meshes: smoothness terms and connected components."""

from __future__ import annotations

import torch
from meshes import CUBE_FACES, cube, euler_characteristic, is_closed

from limbeck.graphics.geometry.marching_tetrahedra import TetGrid
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    connected_components,
    laplacian_smoothing,
    mesh_volume,
    normal_consistency,
    remove_small_components,
)


def test_normal_consistency_is_zero_on_a_plane():
    line = torch.arange(4.0)
    points = torch.cartesian_prod(line, line, torch.zeros(1))
    corner = torch.tensor([4 * i + j for i in range(3) for j in range(3)])
    a, b, c, d = corner, corner + 4, corner + 5, corner + 1
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    assert normal_consistency(points, MeshTopology(faces, 16)).item() < 1e-6


def test_normal_consistency_of_a_cube_is_the_share_of_right_angles():
    corners, mesh = cube(1.0), MeshTopology(CUBE_FACES, 8)
    assert is_closed(mesh) and abs(mesh_volume(corners, mesh).item() - 8) < 1e-12
    assert abs(normal_consistency(corners, mesh).item() - 12 / 18) < 1e-12


def test_laplacian_of_an_octahedron_is_the_distance_to_the_origin():
    """The mean of the four neighbors of a vertex is the origin."""
    vertices = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    upper = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2]]
    lower = [[1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    mesh = MeshTopology(torch.tensor(upper + lower), 6)
    assert is_closed(mesh) and abs(laplacian_smoothing(vertices, mesh).item() - 1) < 1e-9


def test_components_are_separated_and_small_ones_removed():
    grid = TetGrid(24, 1.0)
    points = grid.vertices()
    large = (points - torch.tensor((-0.3, 0, 0))).norm(dim=1) - 0.5
    small = (points - torch.tensor((0.8, 0.4, 0))).norm(dim=1) - 0.1
    vertices, mesh = grid.extract_surface(large.minimum(small), points)
    component = connected_components(mesh)
    assert component.unique().numel() == 2
    in_small = component == component[vertices[:, 0].argmax()]
    assert torch.equal(in_small, vertices[:, 0] > 0.5)
    kept, rest = remove_small_components(vertices, mesh, 0.1)
    assert is_closed(rest) and euler_characteristic(rest) == 2
    assert rest.num_vertices == len(kept) and kept[:, 0].max() < 0.5
    assert len(remove_small_components(vertices, mesh, 0.0)[1].faces) == len(mesh.faces)
    _, largest = remove_small_components(vertices, mesh, 1.0)
    assert torch.equal(largest.faces, rest.faces)
    no_faces = MeshTopology(mesh.faces[:0], mesh.num_vertices)
    assert len(remove_small_components(vertices, no_faces, 0.1)[1].faces) == 0
