"""Coverage and normals of the world's objects, by the same rays that render them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from limbeck.world.sdf_shapes import FOV, camera_axes, intersect, signed_distance


@njit(fastmath=True)
def _write_normal(shape, x, y, z, out):
    """Write the unit normal at a point of the surface into ``out``, which holds zeros."""
    e = 1e-3  # the gradient from four samples on a tetrahedron
    for sx, sy, sz in ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0)):
        d = signed_distance(shape, False, x + e * sx, y + e * sy, z + e * sz)[0]
        out[0] += sx * d
        out[1] += sy * d
        out[2] += sz * d
    length = math.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2) + 1e-9
    for i in range(3):
        out[i] /= length


@njit(cache=True, fastmath=True)
def render_normals(shape, eyes, size):
    """Render coverage and normals with the world's camera, one ray per pixel.

    Args:
        shape: indices of N objects, in the order of ``scene.OBJECTS``, ``[N]``.
        eyes: positions of the cameras, which look at the origin, ``[N, 3]``.
        size: height and width in pixels.

    Returns:
        Alpha, 0 or 1, float32 ``[N, size, size]``, and unit normals in world space, 0 where there
        is no object, float32 ``[N, size, size, 3]``.
    """
    n = shape.shape[0]
    alpha = np.zeros((n, size, size), np.float32)
    normals = np.zeros((n, size, size, 3), np.float32)
    scale = math.tan(FOV / 2.0)
    for i in range(n):
        eye = eyes[i]
        right, up, ahead = camera_axes(eye)
        for py in range(size):
            for px in range(size):
                u = (2.0 * (px + 0.5) / size - 1.0) * scale
                v = (1.0 - 2.0 * (py + 0.5) / size) * scale
                dx = ahead[0] + u * right[0] + v * up[0]
                dy = ahead[1] + u * right[1] + v * up[1]
                dz = ahead[2] + u * right[2] + v * up[2]
                k = math.sqrt(dx * dx + dy * dy + dz * dz)
                dx, dy, dz = dx / k, dy / k, dz / k
                hit, t, _ = intersect(shape[i], False, eye, dx, dy, dz)
                if not hit:
                    continue
                x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
                _write_normal(shape[i], x, y, z, normals[i, py, px])
                alpha[i, py, px] = 1.0
    return alpha, normals
