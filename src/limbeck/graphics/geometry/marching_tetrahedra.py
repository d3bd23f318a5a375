"""Differentiable marching tetrahedra on a regular grid.

@inproceedings{shen2021dmtet,
  title={Deep Marching Tetrahedra: a Hybrid Representation for High-Resolution 3D Shape Synthesis},
  author={Shen, Tianchang and Gao, Jun and Yin, Kangxue and Liu, Ming-Yu and Fidler, Sanja},
  booktitle={NeurIPS}, year={2021}}
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.geometry.mesh import MeshTopology

TET_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  #: corner indices of the six edges


def kuhn_tetrahedra() -> Int[Tensor, "6 4"]:
    """Kuhn's split of a cube into six tetrahedra of positive volume.

    There is one tetrahedron per order of the axes, along the path that steps through them from
    corner 0 to corner 7; corner 4x + 2y + z lies at (x, y, z). Neighboring cubes meet in equal
    triangles.
    """
    tetrahedra = []
    for order in permutations((4, 2, 1)):
        a, b = order[0], order[0] + order[1]
        # number of swaps away from the order (x, y, z): its parity is the sign of the volume
        swaps = sum(order[i] < order[j] for i in range(3) for j in range(i + 1, 3))
        tetrahedra.append((0, a, b, 7) if swaps % 2 == 0 else (0, b, a, 7))
    return torch.tensor(tetrahedra)


@cache
def triangle_table() -> Int[Tensor, "16 2 3"]:
    """Case table of marching tetrahedra: the edges on which each case's triangle vertices lie.

    Bit i of a case is set if corner i is inside. Each case has up to two triangles, padded with -1,
    for positively oriented tetrahedra; triangles are counter-clockwise seen from outside.
    """
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    table = torch.full((16, 2, 3), -1)
    edge_index = {frozenset(edge): i for i, edge in enumerate(TET_EDGES)}
    for case in range(1, 15):
        inside = [i for i in range(4) if case >> i & 1]
        outside = [i for i in range(4) if not case >> i & 1]
        crossed = [(a, b) for a in inside for b in outside]
        if len(crossed) == 4:  # order the corners around the quadrilateral
            crossed = [crossed[0], crossed[1], crossed[3], crossed[2]]
        for k in range(len(crossed) - 2):
            triangle = [crossed[0], crossed[k + 1], crossed[k + 2]]
            a, b, c = (corner[list(edge)].mean(0) for edge in triangle)
            outward = corner[outside].mean(0) - corner[inside].mean(0)
            if torch.linalg.cross(b - a, c - a) @ outward < 0:
                triangle.reverse()
            table[case, k] = torch.tensor([edge_index[frozenset(edge)] for edge in triangle])
    return table


@dataclass(frozen=True)
class TetGrid:
    """A regular grid of cubes over the box [-bound, bound]^3, each split into six tetrahedra.

    Vertex (i, j, k), at the i-th x, j-th y and k-th z, has the index (i n + j) n + k with
    n = resolution + 1.

    Attributes:
        resolution: cubes along a side.
        bound: half the side of the box, in units of world space.
    """

    resolution: int
    bound: float

    @property
    def vertices_per_side(self) -> int:
        """Vertices along a side."""
        return self.resolution + 1

    @property
    def cell_size(self) -> float:
        """Side length of a cube."""
        return 2 * self.bound / self.resolution

    def vertices(self, device: torch.device | None = None) -> Float[Tensor, "v 3"]:
        line = torch.linspace(-self.bound, self.bound, self.vertices_per_side, device=device)
        return torch.cartesian_prod(line, line, line)

    def boundary_mask(self) -> Bool[Tensor, "v"]:
        """Which vertices lie on the faces of the box."""
        interior = torch.zeros((self.vertices_per_side,) * 3, dtype=torch.bool)
        interior[1:-1, 1:-1, 1:-1] = True
        return ~interior.flatten()

    def deform(self, offsets: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
        """Vertices moved by half a cell times tanh of the offsets, as in DMTet."""
        return self.vertices(offsets.device).to(offsets) + offsets.tanh() * (self.cell_size / 2)

    def _crossed_tetrahedra(self, inside: Bool[Tensor, "v"]) -> Int[Tensor, "m 4"]:
        """Vertex indices of the tetrahedra with corners on both sides of the surface.

        Only cubes that the surface crosses are split, so that the cost of a fine grid is
        proportional to its surface.
        """
        n = self.vertices_per_side
        low = [slice(None, -1), slice(1, None)]
        grid = inside.reshape(n, n, n)
        bits = [(c >> 2, c >> 1 & 1, c & 1) for c in range(8)]
        corners = torch.stack([grid[low[x], low[y], low[z]] for x, y, z in bits])
        i, j, k = (corners.any(0) & ~corners.all(0)).nonzero(as_tuple=True)
        offsets = torch.tensor([x * n * n + y * n + z for x, y, z in bits], device=inside.device)
        first = (i * n + j) * n + k
        tets = (first[:, None] + offsets)[:, kuhn_tetrahedra().to(inside.device)].reshape(-1, 4)
        num_inside = inside[tets].sum(1)
        return tets[(num_inside > 0) & (num_inside < 4)]

    @torch.no_grad()
    def _crossed_edges(
        self, inside: Bool[Tensor, "v"]
    ) -> tuple[Int[Tensor, "s"], Int[Tensor, "s"], Int[Tensor, "f 3"]]:
        """Ends a and b of the unique grid edges that carry a vertex, and faces between these."""
        device, count = inside.device, len(inside)
        tets = self._crossed_tetrahedra(inside)
        case = (inside[tets] * torch.tensor([1, 2, 4, 8], device=device)).sum(1)
        triangles = triangle_table().to(device)[case]
        real = triangles[..., 0] >= 0
        tet = torch.arange(len(tets), device=device)[:, None].expand_as(real)[real]
        corners = torch.tensor(TET_EDGES, device=device)[triangles[real]]  # [F, 3, 2]
        a, b = tets[tet[:, None, None], corners].unbind(2)
        key, faces = torch.unique(a.minimum(b) * count + a.maximum(b), return_inverse=True)
        return key // count, key % count, faces

    def extract_surface(
        self, sdf: Float[Tensor, "v"], vertices: Float[Tensor, "v 3"]
    ) -> tuple[Float[Tensor, "s 3"], MeshTopology]:
        """Extract the zero level set of signed distances, negative inside.

        A surface vertex lies at (v_a s_b - v_b s_a) / (s_b - s_a) on its edge (DMTet), through
        which gradients reach distances and positions. The surface is closed if the boundary of the
        box is outside, and empty if nothing is inside.

        Args:
            sdf: signed distances at the grid's vertices.
            vertices: positions of the grid's vertices.

        Returns:
            Welded vertices, and faces that are counter-clockwise seen from outside.
        """
        a, b, faces = self._crossed_edges(sdf.detach() < 0)
        sdf_a, sdf_b = gather_rows(sdf[:, None], a), gather_rows(sdf[:, None], b)
        weighted = gather_rows(vertices, a) * sdf_b - gather_rows(vertices, b) * sdf_a
        return weighted / (sdf_b - sdf_a), MeshTopology(faces, len(a))


def ellipsoid_sdf(
    points: Float[Tensor, "n 3"], radii: tuple[float, float, float]
) -> Float[Tensor, "n"]:
    """Signed distance to an ellipsoid around the origin.

    It is accurate to first order near the surface, and exact for a sphere.
    """
    r = torch.tensor(radii).to(points)
    k0, k1 = (points / r).norm(dim=1), (points / r.square()).norm(dim=1)
    return torch.where(k1 > 1e-9, k0 * (k0 - 1) / k1.clamp_min(1e-9), -min(radii))


def level_set_to_sdf(
    values: Float[Tensor, "v"], grid: TetGrid, max_cells: float = 2.0
) -> Float[Tensor, "v"]:
    """Convert values that are negative inside to signed distances s / |grad s|.

    Args:
        values: values at the grid's vertices; their zero level set is the surface.
        grid: the grid.
        max_cells: distances are clamped to this many cells.
    """
    n = grid.vertices_per_side
    gradient = torch.stack(torch.gradient(values.reshape(n, n, n), spacing=grid.cell_size))
    slope = gradient.square().sum(0).sqrt().flatten()
    limit = max_cells * grid.cell_size
    return (values / slope.clamp_min(1e-12)).clamp(-limit, limit)


def gaussian_blur_matrix(size: int, std: float) -> Float[Tensor, "n n"]:
    """Weights of a Gaussian blur along a line; columns sum to 1.

    Args:
        size: number of grid points.
        std: standard deviation in grid steps.
    """
    position = torch.arange(size, dtype=torch.float32)
    squared_distance = (position[:, None] - position).square()
    weight = (-squared_distance / (2 * max(std, 1e-3) ** 2)).exp()
    return weight / weight.sum(0)
