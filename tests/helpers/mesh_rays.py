"""Ray casting through exported meshes."""

from __future__ import annotations

import numpy as np
import trimesh

from limbeck.graphics.cameras.camera import Camera


def rays(
    mesh: trimesh.Trimesh, camera: Camera, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cast a ray through each pixel (Moeller and Trumbore 1997).

    Returns the nearest face of each pixel, -1 for none, its barycentric weights, and the point.
    """
    direction = camera.directions(size, size)[0].reshape(-1, 1, 3).double().numpy()
    a, b, c = (mesh.vertices[mesh.faces[:, k]][None] for k in range(3))
    eye = camera.eye[0].double().numpy()
    p = np.cross(direction, c - a)
    det = (p * (b - a)).sum(-1)
    det = np.where(np.abs(det) < 1e-12, np.nan, det)
    u = ((eye - a) * p).sum(-1) / det
    q = np.cross(eye - a, b - a)
    v = (direction * q).sum(-1) / det
    t = ((c - a) * q).sum(-1) / det
    from_outside = det > 0
    inside = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9)
    t = np.where(inside & from_outside, t, np.inf)
    face, rows = t.argmin(1), np.arange(len(t))
    u, v, t = u[rows, face], v[rows, face], t[rows, face]
    hit = np.isfinite(t)
    points = eye + direction[:, 0] * np.where(hit, t, 0)[:, None]
    return np.where(hit, face, -1), np.stack([1 - u - v, u, v], 1), points
