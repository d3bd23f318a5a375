"""Rays through exported meshes."""

from __future__ import annotations

import numpy as np
import trimesh

from limbeck.graphics.cameras.camera import Camera


def rays(
    mesh: trimesh.Trimesh, camera: Camera, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest face of each pixel, -1 for none, weights of its corners, and the point (Moeller and Trumbore 1997)."""
    along = camera.directions(size, size)[0].reshape(-1, 1, 3).double().numpy()
    a, b, c = (mesh.vertices[mesh.faces[:, k]][None] for k in range(3))
    eye = camera.eye[0].double().numpy()
    p = np.cross(along, c - a)
    det = (p * (b - a)).sum(-1)
    det = np.where(np.abs(det) < 1e-12, np.nan, det)
    u = ((eye - a) * p).sum(-1) / det
    q = np.cross(eye - a, b - a)
    v = (along * q).sum(-1) / det
    t = ((c - a) * q).sum(-1) / det
    t = np.where(
        (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (det > 0), t, np.inf
    )  # det > 0: seen from outside
    face, rows = t.argmin(1), np.arange(len(t))
    u, v, t = u[rows, face], v[rows, face], t[rows, face]
    hit = np.isfinite(t)
    return (
        np.where(hit, face, -1),
        np.stack([1 - u - v, u, v], 1),
        eye + along[:, 0] * np.where(hit, t, 0)[:, None],
    )
