"""Decimation of triangle meshes by edge collapses in the order of quadric errors.

It is computed here, since the libraries that do it are not installed everywhere. Collapses that do
not touch each other are made at the same time, as array operations.

References:
    Garland and Heckbert, Surface Simplification Using Quadric Error Metrics, SIGGRAPH 1997.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.geometry.mesh import MeshTopology

_CANDIDATE_SHARE = 0.35  #: share of the cheapest edges among which a round chooses
_PULL = 1e-8  #: weight of the squared distance to the middle of the edge, relative to the quadric
_MIN_NORMAL_COSINE = 0.2  #: a collapse that turns a face by more than this is refused
_MIN_SHAPE = 1e-3  #: twice the area over the longest side squared, below which a face is a sliver


def collapse_edges(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], max_faces: int
) -> tuple[Float[Tensor, "w 3"], Int[Tensor, "g 3"]]:
    """Collapse edges until at most ``max_faces`` faces are left.

    A closed surface stays closed and keeps its holes and components. Vertices of edges that have
    not exactly two faces stay where they are.

    Args:
        vertices: positions.
        faces: vertex indices.
        max_faces: number of faces to reach.

    Returns:
        The vertices that are left, and their faces; more than ``max_faces`` if no edge can be
        collapsed any more.
    """
    device, dtype = vertices.device, vertices.dtype
    points, faces = vertices.detach().cpu().double().clone(), faces.cpu()
    mesh = _Mesh(points, faces, _vertex_quadrics(points, faces))
    none = refused = torch.zeros(0, dtype=torch.long)
    retried = False
    while (excess := len(mesh.faces) - max_faces) > 0:
        collapsed, newly_refused = mesh.collapse_round((excess + 1) // 2, refused)
        refused = torch.cat([refused, newly_refused])
        if collapsed:
            retried = False
        elif not len(newly_refused):  # no edge is left but the refused ones
            if retried:
                break
            refused, retried = none, True  # their surroundings may have changed
    used, faces = mesh.faces.unique(return_inverse=True)
    return mesh.points[used].to(device, dtype), faces.to(device)


def _shuffled_order(cost: Float[Tensor, "e"]) -> Int[Tensor, "e"]:
    """Order of ascending costs, at random among costs that differ by less than a factor of two.

    On a plane or a smooth surface the exact order runs along the mesh, so that few edges would come
    before all their neighbors, and a round would collapse few.
    """
    shuffled = torch.randperm(len(cost), generator=torch.Generator().manual_seed(0))
    level = cost[shuffled].clamp_min(1e-30).log2().floor()
    return shuffled[level.argsort(stable=True)]


def _vertex_quadrics(
    points: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "v 4 4"]:
    """Sum of the squared distances to the planes of the faces around, weighted by their areas."""
    a, b, c = points[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    area = normal.norm(dim=1, keepdim=True).clamp_min(1e-30)
    plane = torch.cat([normal / area, -(normal / area * a).sum(1, keepdim=True)], 1)
    quadric = area[:, None] * plane[:, :, None] * plane[:, None]
    total = torch.zeros(len(points), 4, 4, dtype=points.dtype)
    return total.index_add_(0, faces.flatten(), quadric.repeat_interleave(3, 0))


@dataclass
class _Mesh:
    """A mesh that is being decimated; vertices keep their numbers.

    Attributes:
        points: positions in float64.
        faces: vertex indices.
        quadrics: quadric error of each vertex, of homogeneous coordinates.
    """

    points: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    quadrics: Float[Tensor, "v 4 4"]

    def collapse_round(self, limit: int, refused: Int[Tensor, "r"]) -> tuple[int, Int[Tensor, "s"]]:
        """Collapse edges that have no vertex or neighbor in common.

        Args:
            limit: largest number of collapses.
            refused: keys of edges that are left alone.

        Returns:
            The number of collapses, and the keys of edges that could not be collapsed.
        """
        topology = MeshTopology(self.faces, len(self.points))
        edges, face_edges = topology.edges, topology.face_edges
        key = edges[:, 0] * len(self.points) + edges[:, 1]
        open_edge = torch.bincount(face_edges.flatten(), minlength=len(edges)) != 2
        locked = torch.zeros(len(self.points), dtype=torch.bool)
        locked[edges[open_edge].flatten()] = True
        eligible = ~locked[edges].any(1) & ~torch.isin(key, refused)
        edge = eligible.nonzero().squeeze(1)
        position, cost = self._targets(edges[edge])
        order = _shuffled_order(cost)[: max(1, round(_CANDIDATE_SHARE * len(edge)))]
        chosen = order[self._independent(edges, edge[order])]
        if not len(chosen):
            return 0, key[:0]
        ends, position = edges[edge[chosen]], position[chosen]
        valid = self._keeps_topology(edges, ends) & self._keeps_shape(ends, position)
        self._collapse(ends[valid][:limit], position[valid][:limit])
        return min(int(valid.sum()), limit), key[edge[chosen]][~valid]

    def _targets(self, ends: Int[Tensor, "e 2"]) -> tuple[Float[Tensor, "e 3"], Float[Tensor, "e"]]:
        """Where the vertex of each collapsed edge would lie, and the error there."""
        quadric = self.quadrics[ends].sum(1)
        a, b = self.points[ends].unbind(1)
        middle, length = (a + b) / 2, (a - b).square().sum(1)
        matrix = quadric[:, :3, :3]
        pull = _PULL * matrix.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-30)
        damped = matrix + pull[:, None, None] * torch.eye(3, dtype=matrix.dtype)
        right = pull[:, None] * middle - quadric[:, :3, 3]
        position = torch.linalg.solve(damped, right)
        homogeneous = torch.cat([position, torch.ones_like(pull)[:, None]], 1)
        error = torch.einsum("ei,eij,ej->e", homogeneous, quadric, homogeneous)
        distance = (position - middle).square().sum(1) + length / 4
        return position, error.clamp_min(0) + pull * distance

    def _independent(
        self, edges: Int[Tensor, "e 2"], ranked: Int[Tensor, "c"]
    ) -> Bool[Tensor, "c"]:
        """Which of the ranked edges come before all others around their vertices and neighbors."""
        count = len(self.points)
        rank = torch.full((len(edges),), len(edges))
        rank[ranked] = torch.arange(len(ranked))
        a, b = edges.unbind(1)
        best = torch.full((count,), len(edges))
        best.scatter_reduce_(0, a, rank, "amin").scatter_reduce_(0, b, rank, "amin")
        around = best.clone()
        around.scatter_reduce_(0, a, best[b], "amin").scatter_reduce_(0, b, best[a], "amin")
        return rank[ranked] <= around[edges[ranked]].amin(1)

    def _owner(self, ends: Int[Tensor, "k 2"]) -> Int[Tensor, "v"]:
        """Which of the edges each vertex is an end of, -1 for none."""
        owner = torch.full((len(self.points),), -1)
        owner[ends] = torch.arange(len(ends))[:, None].expand(-1, 2)
        return owner

    def _keeps_topology(
        self, edges: Int[Tensor, "e 2"], ends: Int[Tensor, "k 2"]
    ) -> Bool[Tensor, "k"]:
        """Whether the ends have just the two neighbors in common that lie across the edge.

        No vertex may be left with fewer than three neighbors.
        """
        owner, count = self._owner(ends), len(self.points)
        valence = torch.bincount(edges.flatten(), minlength=count)
        one_end = (owner[edges] >= 0).sum(1) == 1
        own, other = edges[one_end].unbind(1)
        own, other = (
            torch.where(owner[own] >= 0, own, other),
            torch.where(owner[own] >= 0, other, own),
        )
        pair, times = (owner[own] * count + other).unique(return_counts=True)
        shared_by, shared = pair[times == 2] // count, pair[times == 2] % count
        left = valence - torch.bincount(shared, minlength=count)
        thin = torch.bincount(shared_by[left[shared] < 3], minlength=len(ends)) > 0
        common = torch.bincount(shared_by, minlength=len(ends))
        return (common == 2) & ~thin & (valence[ends].sum(1) - 4 >= 3)

    def _keeps_shape(
        self, ends: Int[Tensor, "k 2"], position: Float[Tensor, "k 3"]
    ) -> Bool[Tensor, "k"]:
        """Whether no face around the ends turns over or becomes a sliver."""
        owner = self._owner(ends)[self.faces]
        around = (owner >= 0).sum(1) == 1
        owner, old = owner[around], self.points[self.faces[around]]
        moved = owner >= 0
        index = owner.amax(1)
        new = torch.where(moved[..., None], position[index][:, None], old)
        (old_normal, old_shape), (new_normal, new_shape) = map(_normal_and_shape, (old, new))
        turned = (old_normal * new_normal).sum(1) < _MIN_NORMAL_COSINE
        sliver = new_shape < torch.minimum(old_shape, torch.tensor(_MIN_SHAPE))
        bad = sliver | (turned & (old_shape > _MIN_SHAPE))
        return torch.bincount(index[bad], minlength=len(ends)) == 0

    def _collapse(self, ends: Int[Tensor, "k 2"], position: Float[Tensor, "k 3"]) -> None:
        kept, removed = ends.unbind(1)
        self.points[kept] = position
        self.quadrics[kept] += self.quadrics[removed]
        target = torch.arange(len(self.points))
        target[removed] = kept
        faces = target[self.faces]
        a, b, c = faces.unbind(1)
        self.faces = faces[(a != b) & (b != c) & (c != a)]


def _normal_and_shape(
    corners: Float[Tensor, "f 3 3"],
) -> tuple[Float[Tensor, "f 3"], Float[Tensor, "f"]]:
    """Unit normals, and twice the areas over the squares of the longest sides."""
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    area = normal.norm(dim=1)
    longest = torch.stack([a - b, b - c, c - a]).square().sum(2).amax(0)
    return normal / area.clamp_min(1e-30)[:, None], area / longest.clamp_min(1e-30)
