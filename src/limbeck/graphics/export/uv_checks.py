"""Whether the texture coordinates of a file can hold a texture of their own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.export.uv_atlas import texel_hits

_TEST_SIZE = 512  #: side of the texture in which overlaps are looked for
_MAX_OVERLAP = 0.005  #: share of the covered texels that may be covered twice
_MARGIN = 1e-4  #: by which coordinates may leave [0, 1]
_MAX_FLAT = 0.01  #: share of the faces that may have no area in the texture


def uv_problem(uv: Float[Tensor, "v 2"] | None, faces: Int[Tensor, "f 3"]) -> str:
    """Why texture coordinates cannot be kept, to follow "which"; empty if they can.

    Args:
        uv: texture coordinates; None if there are none.
        faces: vertex indices.
    """
    if uv is None:
        return "has none"
    used = uv[faces]
    if not bool(used.isfinite().all()):
        return "has some that are not finite"
    if float(used.min()) < -_MARGIN or float(used.max()) > 1 + _MARGIN:
        return "repeats its texture"
    a, b, c = used.double().unbind(1)
    side, other = b - a, c - a
    area = (side[:, 0] * other[:, 1] - side[:, 1] * other[:, 0]).abs()
    if float((area < 1e-12).float().mean()) > _MAX_FLAT:
        return "has faces without area in the texture"
    count = torch.zeros(_TEST_SIZE * _TEST_SIZE, dtype=torch.long)
    for _, row, column, weight in texel_hits(uv, faces, _TEST_SIZE):
        strict = (weight > 1e-6).all(1)  # texels on an edge belong to both of its faces
        texel = row[strict] * _TEST_SIZE + column[strict]
        count += torch.bincount(texel, minlength=len(count))
    if int((count > 1).sum()) > _MAX_OVERLAP * max(int((count > 0).sum()), 1):
        return "uses parts of its texture twice"
    return ""
