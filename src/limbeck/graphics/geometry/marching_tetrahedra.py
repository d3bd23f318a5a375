"""Marching tetrahedra on a regular grid: signed distances to a closed surface, differentiably.

@inproceedings{shen2021dmtet,
  title={Deep Marching Tetrahedra: a Hybrid Representation for High-Resolution 3D Shape Synthesis},
  author={Shen, Tianchang and Gao, Jun and Yin, Kangxue and Liu, Ming-Yu and Fidler, Sanja}, booktitle={NeurIPS}, year={2021}}
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.geometry.mesh import MeshTopology

TET_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  #: of a tetrahedron, by its corners


def kuhn_tetrahedra() -> Int[Tensor, "6 4"]:
    """Kuhn's split of a cube: one tetrahedron for every order of the axes, along the path that steps through them from corner 0 to
    corner 7. Corner 4x + 2y + z lies at (x, y, z). Each is ordered so that its volume is positive; equal cubes side by side meet
    in equal triangles."""
    paths = []
    for order in permutations((4, 2, 1)):
        a, b = order[0], order[0] + order[1]
        turn = sum(
            order[i] < order[j] for i in range(3) for j in range(i + 1, 3)
        )  # swaps away from (x, y, z)
        paths.append((0, a, b, 7) if turn % 2 == 0 else (0, b, a, 7))
    return torch.tensor(paths)


@cache
def triangle_table() -> Int[Tensor, "16 2 3"]:
    """Edges of a positively oriented tetrahedron that carry the corners of the up to two triangles of each case, else -1.

    Bit i of a case says that corner i is inside. Seen from outside, triangles are counter-clockwise.
    """
    place = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    table = torch.full((16, 2, 3), -1)
    number = {frozenset(edge): i for i, edge in enumerate(TET_EDGES)}
    for case in range(1, 15):
        inside = [i for i in range(4) if case >> i & 1]
        outside = [i for i in range(4) if not case >> i & 1]
        cut = [(a, b) for a in inside for b in outside]
        if len(cut) == 4:  # around the quadrilateral
            cut = [cut[0], cut[1], cut[3], cut[2]]
        for k in range(len(cut) - 2):
            corners = [cut[0], cut[k + 1], cut[k + 2]]
            a, b, c = (place[list(edge)].mean(0) for edge in corners)
            out = place[outside].mean(0) - place[inside].mean(0)
            if torch.linalg.cross(b - a, c - a) @ out < 0:
                corners.reverse()
            table[case, k] = torch.tensor([number[frozenset(edge)] for edge in corners])
    return table


@dataclass(frozen=True)
class TetGrid:
    """``cells`` cubes to a side of the box [-half, half]^3, each cut into six tetrahedra; vertex (i, j, k) has the number
    (i n + j) n + k with n = cells + 1, and stands at x, y, z from the i, j, k."""

    cells: int
    half: float

    @property
    def side(self) -> int:
        """Vertices to a side."""
        return self.cells + 1

    @property
    def cell(self) -> float:
        """Width of a cube."""
        return 2 * self.half / self.cells

    def vertices(self, device: torch.device | None = None) -> Float[Tensor, "v 3"]:
        line = torch.linspace(-self.half, self.half, self.side, device=device)
        return torch.cartesian_prod(line, line, line)

    def border(self) -> Bool[Tensor, "v"]:
        """Vertices on the faces of the box."""
        inner = torch.zeros((self.side,) * 3, dtype=torch.bool)
        inner[1:-1, 1:-1, 1:-1] = True
        return ~inner.flatten()

    def deformed(self, raw: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
        """The vertices, each moved by tanh of what is given, at most half a cell to a side (as in DMTet)."""
        return self.vertices(raw.device).to(raw) + raw.tanh() * (self.cell / 2)

    def _cut(self, inside: Bool[Tensor, "v"]) -> Int[Tensor, "m 4"]:
        """Tetrahedra with corners on both sides. Only cubes that are cut are split, so that fine grids cost their surface."""
        n = self.side
        low = [slice(None, -1), slice(1, None)]
        cube = inside.reshape(n, n, n)
        corners = torch.stack([cube[low[c >> 2], low[c >> 1 & 1], low[c & 1]] for c in range(8)])
        i, j, k = (corners.any(0) & ~corners.all(0)).nonzero(as_tuple=True)
        reach = torch.tensor(
            [(c >> 2) * n * n + (c >> 1 & 1) * n + (c & 1) for c in range(8)], device=inside.device
        )
        first = (i * n + j) * n + k
        tets = (first[:, None] + reach)[:, kuhn_tetrahedra().to(inside.device)].reshape(-1, 4)
        count = inside[tets].sum(1)
        return tets[(count > 0) & (count < 4)]

    def surface(
        self, sdf: Float[Tensor, "v"], vertices: Float[Tensor, "v 3"]
    ) -> tuple[Float[Tensor, "s 3"], MeshTopology]:
        """The zero level of signed distances, negative inside: welded vertices and faces, counter-clockwise seen from outside.

        A vertex lies at (v_a s_b - v_b s_a) / (s_b - s_a) on its edge (DMTet), which is where its gradients come from. The
        surface is closed where the border of the box is outside; it is empty where nothing is inside.
        """
        with torch.no_grad():
            inside = sdf < 0
            tets = self._cut(inside)
            case = (inside[tets] * torch.tensor([1, 2, 4, 8], device=sdf.device)).sum(1)
            cut = triangle_table().to(sdf.device)[case]
            real = cut[..., 0] >= 0
            tet = torch.arange(len(tets), device=sdf.device)[:, None].expand_as(real)[real]
            ends = torch.tensor(TET_EDGES, device=sdf.device)[
                cut[real]
            ]  # [F, 3, 2] corners of tetrahedra
            ends = tets[tet[:, None, None], ends]
            a, b = ends.unbind(2)
            key, faces = torch.unique(a.minimum(b) * len(sdf) + a.maximum(b), return_inverse=True)
            a, b = key // len(sdf), key % len(sdf)
        sa, sb = gather_rows(sdf[:, None], a), gather_rows(sdf[:, None], b)
        return (gather_rows(vertices, a) * sb - gather_rows(vertices, b) * sa) / (
            sb - sa
        ), MeshTopology(faces, len(a))


def ellipsoid_sdf(
    points: Float[Tensor, "n 3"], radii: tuple[float, float, float]
) -> Float[Tensor, "n"]:
    """Signed distance to an ellipsoid about the origin, to first order near its surface; exact for a sphere."""
    r = torch.tensor(radii).to(points)
    near, grow = (points / r).norm(dim=1), (points / r.square()).norm(dim=1)
    return torch.where(grow > 1e-9, near * (near - 1) / grow.clamp_min(1e-9), -min(radii))


def level_set_to_sdf(level: Float[Tensor, "v"], grid: TetGrid, far: float = 2.0) -> Float[Tensor, "v"]:
    """Numbers that are negative inside as distances, to first order at their zero and at most ``far`` cells: s / |grad s|."""
    n = grid.side
    cube = level.reshape(n, n, n)
    slope = torch.stack(torch.gradient(cube, spacing=grid.cell)).square().sum(0).sqrt().flatten()
    most = far * grid.cell
    return (level / slope.clamp_min(1e-12)).clamp(-most, most)


def silhouette_iso_level(density: Float[Tensor, "v"], grid: TetGrid) -> float:
    """The density whose surface covers as much, seen along the three axes, as is more than half opaque of the density itself.

    That many columns have a greatest density above it; at most half of the greatest of all. ValueError where nothing is that dense.
    """
    cube = density.reshape((grid.side,) * 3)
    opaque = sum(int((cube.sum(axis) * grid.cell > math.log(2)).sum()) for axis in range(3))
    if not opaque:
        raise ValueError(
            "nothing is half opaque from any side: let the run before go on for longer, or give a level"
        )
    tops = torch.cat([cube.amax(axis).flatten() for axis in range(3)]).sort(descending=True).values
    return min(float(tops[opaque - 1]), float(tops[0]) / 2)


def gaussian_blur_matrix(side: int, wide: float) -> Float[Tensor, "n n"]:
    """Weights of a Gaussian blur along a line, ``wide`` its deviation in steps; columns sum to one."""
    at = torch.arange(side, dtype=torch.float32)
    weight = (-(at[:, None] - at).square() / (2 * max(wide, 1e-3) ** 2)).exp()
    return weight / weight.sum(0)
