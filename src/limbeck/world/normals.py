"""The world's objects as geometry alone: what is covered and which way it faces, by the same rays that draw them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from limbeck.world.sdf_shapes import BOUND, FOV, distance


@njit(fastmath=True)
def _facing(shape, eye, dx, dy, dz, out):
    """The normal where a ray meets the object, left as it is where it does not; returns whether it does."""
    b = eye[0] * dx + eye[1] * dy + eye[2] * dz
    disc = b * b - (eye[0] ** 2 + eye[1] ** 2 + eye[2] ** 2) + BOUND * BOUND
    if disc <= 0.0:
        return False
    t, end = -b - math.sqrt(disc), -b + math.sqrt(disc)
    for _ in range(72):
        x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
        d = distance(shape, False, x, y, z)[0]
        if d < 2e-3:
            e = 1e-3
            for sx, sy, sz in (
                (1.0, -1.0, -1.0),
                (-1.0, -1.0, 1.0),
                (-1.0, 1.0, -1.0),
                (1.0, 1.0, 1.0),
            ):
                d = distance(shape, False, x + e * sx, y + e * sy, z + e * sz)[0]
                out[0] += sx * d
                out[1] += sy * d
                out[2] += sz * d
            k = math.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2) + 1e-9
            for i in range(3):
                out[i] /= k
            return True
        t += d * 0.95
        if t > end:
            return False
    return False


@njit(cache=True, fastmath=True)
def relief(shape, eyes, size):
    """Of objects ``[N]`` seen from ``eyes`` ``[N, 3]`` by the world's camera: alpha ``[N, size, size]``, 0 or 1, and unit normals
    ``[N, size, size, 3]`` in the space of the world, 0 where nothing is; one ray a pixel."""
    n = shape.shape[0]
    alpha = np.zeros((n, size, size), np.float32)
    normal = np.zeros((n, size, size, 3), np.float32)
    scale = math.tan(FOV / 2.0)
    for i in range(n):
        eye = eyes[i]
        far = math.sqrt(eye[0] ** 2 + eye[1] ** 2 + eye[2] ** 2)
        a = -eye / far
        flat = math.sqrt(a[0] ** 2 + a[2] ** 2)
        r = np.array([-a[2] / flat, 0.0, a[0] / flat])
        up = np.array(
            [r[1] * a[2] - r[2] * a[1], r[2] * a[0] - r[0] * a[2], r[0] * a[1] - r[1] * a[0]]
        )
        for py in range(size):
            for px in range(size):
                u, v = (
                    (2.0 * (px + 0.5) / size - 1.0) * scale,
                    (1.0 - 2.0 * (py + 0.5) / size) * scale,
                )
                dx, dy, dz = (
                    a[0] + u * r[0] + v * up[0],
                    a[1] + u * r[1] + v * up[1],
                    a[2] + u * r[2] + v * up[2],
                )
                k = math.sqrt(dx * dx + dy * dy + dz * dz)
                if _facing(shape[i], eye, dx / k, dy / k, dz / k, normal[i, py, px]):
                    alpha[i, py, px] = 1.0
    return alpha, normal
