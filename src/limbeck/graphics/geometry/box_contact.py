"""How much of a surface lies at the sides of the box that its field is defined in."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

BOX_SIDES = ("left (-x)", "right (+x)", "bottom (-y)", "top (+y)", "back (-z)", "front (+z)")
_MARGIN = 0.075  #: distance from a side, relative to ``bound``, within which a surface touches it
_MIN_COSINE = 0.9  #: a face that was cut off by a side is parallel to it


def box_contact(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], bound: float
) -> dict[str, float]:
    """Fraction of the area of a surface at each side of the box [-bound, bound]^3.

    Args:
        vertices: positions.
        faces: vertex indices.
        bound: half the side of the box.

    Returns:
        The fractions by name of the side, for sides that are touched.
    """
    corners = vertices[faces]
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    area = normal.norm(dim=1)
    contact = {}
    for index, side in enumerate(BOX_SIDES):
        axis, sign = index // 2, 1 if index % 2 else -1
        at_side = (sign * corners[:, :, axis]).amin(1) > (1 - _MARGIN) * bound
        at_side &= sign * normal[:, axis] > _MIN_COSINE * area
        fraction = float(area[at_side].sum() / area.sum().clamp_min(1e-30))
        if fraction > 0:
            contact[side] = fraction
    return contact
