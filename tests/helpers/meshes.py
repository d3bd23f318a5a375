"""Cubes, spheres and checks of meshes, for the tests of meshes and their rendering."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera, look_at
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid
from limbeck.graphics.geometry.mesh import MeshTopology

CUBE_FACES = torch.tensor(
    [
        [[0, 1, 3], [0, 3, 2]],
        [[4, 6, 7], [4, 7, 5]],
        [[0, 4, 5], [0, 5, 1]],
        [[2, 3, 7], [2, 7, 6]],
        [[0, 2, 6], [0, 6, 4]],
        [[1, 5, 7], [1, 7, 3]],
    ]
).flatten(0, 1)
SQUARE_FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def cube(half: float, rotation: Tensor | None = None) -> Tensor:
    """The corners of a cube, in the order of ``CUBE_FACES``."""
    corners = torch.cartesian_prod(*[torch.tensor([-half, half], dtype=torch.float64)] * 3)
    return corners if rotation is None else corners @ rotation.T


def sphere(cells: int, radius: float = 0.7) -> tuple[Tensor, MeshTopology]:
    """A sphere by marching tetrahedra."""
    grid = TetGrid(cells, 1.0)
    points = grid.vertices().double()
    return grid.extract_surface(points.norm(dim=1) - radius, points)


def is_closed(mesh: MeshTopology) -> bool:
    """Whether every edge has two faces, which traverse it in opposite directions."""
    edges = mesh.face_edges.flatten()
    num_faces = torch.bincount(edges)
    directions = torch.zeros(len(mesh.edges), dtype=torch.long)
    directions = directions.index_add(0, edges, mesh.edge_orientations.flatten())
    return bool((num_faces == 2).all() and (directions == 0).all())


def euler_characteristic(mesh: MeshTopology) -> int:
    return mesh.num_vertices - len(mesh.edges) + len(mesh.faces)


def to_float64(camera: Camera) -> Camera:
    """The same camera, which looks at the origin, upright to the last bit of a double."""
    eye = camera.eye.double()
    return look_at(eye, torch.zeros_like(eye), camera.fov.double())
