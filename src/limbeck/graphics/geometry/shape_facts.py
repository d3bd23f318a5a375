"""What a surface is like without knowing what it should show: pieces, handles, cut sides."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.box_contact import box_contact
from limbeck.graphics.geometry.mesh import MeshTopology, connected_components

_MIN_SHARE = 0.01  #: pieces with a smaller share of the faces are specks


@dataclass(frozen=True)
class ShapeFacts:
    """Facts of a surface.

    Attributes:
        pieces: connected components with at least a hundredth of the faces.
        handles: genus, summed over these pieces: 1 for a ring or the handle of a mug. None if a
            piece is open.
        box_contact: share of the area that lies at the sides of the box, 0 to 1.
    """

    pieces: int
    handles: int | None
    box_contact: float


def shape_facts(surface: Surface, bound: float | None) -> ShapeFacts:
    """Facts of a surface.

    The genus of a closed piece follows from Euler's formula, V - E + F = 2 - 2 g.

    Args:
        surface: the surface.
        bound: half the side of its box; None: it has none.
    """
    mesh = MeshTopology(surface.faces, len(surface.vertices))
    label = connected_components(mesh)
    face_counts = label[mesh.faces[:, 0]].bincount(minlength=mesh.num_vertices)
    large = face_counts >= max(_MIN_SHARE * len(mesh.faces), 1)
    pieces = int(large.sum())
    uses = mesh.face_edges.flatten().bincount(minlength=len(mesh.edges))
    own_edges = large[label[mesh.edges[:, 0]]]
    is_closed = bool((uses[own_edges] == 2).all())
    euler = int(large[label].sum() - own_edges.sum() + face_counts[large].sum())
    contact = box_contact(surface.vertices, surface.faces, bound) if bound is not None else {}
    return ShapeFacts(pieces, pieces - euler // 2 if is_closed else None, sum(contact.values()))
