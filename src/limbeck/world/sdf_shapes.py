"""Fourteen objects as signed distance functions, and a sphere tracer (numba, no tensors).

World axes: x right, y up, z toward the viewer of the *front*; every object faces +z and fits into
the ball of radius ``BOUND``. A distance function returns ``(distance, material)``; material 0 is
the object's own color and pattern, the others are fixed.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

BOUND = 1.3  #: Radius of a ball around the origin that holds every object.
FOV = math.radians(40.0)  #: Vertical field of view of the camera, in radians.

#: Fixed colors by material index (0 is the object's own color, filled in per image).
MATERIALS = np.array(
    [
        [0, 0, 0],
        [0.93, 0.88, 0.76],  # 1 cream: stem of a mushroom
        [0.95, 0.50, 0.05],  # 2 orange: beak, nose
        [0.06, 0.06, 0.07],  # 3 dark: eyes, wheels
        [0.36, 0.20, 0.10],  # 4 brown: roof, door
        [1.00, 0.93, 0.55],  # 5 light: windows of a house, head lights
        [0.85, 0.08, 0.08],  # 6 tail light
        [0.25, 0.32, 0.40],  # 7 glass of a car
        [0.97, 0.97, 0.97],  # 8 white: eyes and wheels on a black object
    ],
    dtype=np.float32,
)


@njit(inline="always", fastmath=True)
def _box(x, y, z, hx, hy, hz):
    qx, qy, qz = abs(x) - hx, abs(y) - hy, abs(z) - hz
    out = math.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
    return out + min(max(qx, max(qy, qz)), 0.0)


@njit(inline="always", fastmath=True)
def _sphere(x, y, z, r):
    return math.sqrt(x * x + y * y + z * z) - r


@njit(inline="always", fastmath=True)
def _ellipsoid(x, y, z, a, b, c):
    k0 = math.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    k1 = math.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2)
    return k0 * (k0 - 1.0) / max(k1, 1e-6)


@njit(inline="always", fastmath=True)
def _capped_cylinder(r, y, radius, half):
    """A capped cylinder, from the distance ``r`` to its axis and the height ``y`` along it."""
    dx, dy = r - radius, abs(y) - half
    return min(max(dx, dy), 0.0) + math.sqrt(max(dx, 0.0) ** 2 + max(dy, 0.0) ** 2)


@njit(inline="always", fastmath=True)
def _union(d, m, other, material):
    return (other, material) if other < d else (d, m)


@njit(fastmath=True)
def _primitive(shape, x, y, z):
    """Sphere, cube, cone, cylinder, torus or pyramid."""
    r = math.sqrt(x * x + z * z)
    if shape == 0:
        return _sphere(x, y, z, 0.95), 0
    if shape == 1:
        return _box(x, y, z, 0.68, 0.68, 0.68) - 0.03, 0
    if shape == 2:  # slope of the cone: radius 0.85 at y=-0.85, tip at y=1
        n = math.sqrt(1.85**2 + 0.85**2)
        return max((r * 1.85 + (y - 1.0) * 0.85) / n, -0.85 - y), 0
    if shape == 3:
        return _capped_cylinder(r, y, 0.62, 0.88) - 0.02, 0
    if shape == 4:  # tilted, so that the hole shows from the front
        s, c = math.sin(0.7), math.cos(0.7)
        ty, tz = c * y - s * z, s * y + c * z
        ring = math.sqrt(x * x + tz * tz) - 0.74
        return math.sqrt(ring * ring + ty * ty) - 0.33, 0
    n = math.sqrt(1.75**2 + 0.9**2)
    return max((max(abs(x), abs(z)) * 1.75 + (y - 0.95) * 0.9) / n, -0.8 - y), 0


@njit(fastmath=True)
def _mug(x, y, z):
    x += 0.16
    r = math.sqrt(x * x + z * z)
    wall = max(_capped_cylinder(r, y, 0.62, 0.75), -_capped_cylinder(r, y - 0.12, 0.50, 0.78))
    ring = math.sqrt((x - 0.62) ** 2 + y * y) - 0.40
    handle = max(math.sqrt(ring * ring + z * z) - 0.115, 0.56 - r)
    return min(wall, handle), 0


@njit(fastmath=True)
def _mushroom(x, y, z):
    r = math.sqrt(x * x + z * z)
    cap = max(_ellipsoid(x, y - 0.05, z, 0.92, 0.80, 0.92), 0.05 - y)
    return _union(cap, 0, _capped_cylinder(r, y + 0.42, 0.25, 0.50), 1)


@njit(fastmath=True)
def _snowman(x, y, z, eyes):
    d = min(
        _sphere(x, y + 0.50, z, 0.56),
        min(_sphere(x, y - 0.22, z, 0.41), _sphere(x, y - 0.78, z, 0.31)),
    )
    m = 0
    nose = max((math.sqrt(x * x + (y - 0.76) ** 2) * 0.5 + (z - 0.78) * 0.14) / 0.52, 0.2 - z)
    d, m = _union(d, m, nose, 2)
    d, m = _union(d, m, _sphere(abs(x) - 0.13, y - 0.90, z - 0.26, 0.085), eyes)
    d, m = _union(d, m, _sphere(x, y - 0.34, z - 0.40, 0.085), eyes)
    d, m = _union(d, m, _sphere(x, y - 0.08, z - 0.40, 0.085), eyes)
    return d, m


@njit(fastmath=True)
def _table(x, y, z):
    top = _box(x, y - 0.42, z, 0.95, 0.11, 0.66)
    return min(top, _box(abs(x) - 0.80, y + 0.20, abs(z) - 0.52, 0.11, 0.62, 0.11)), 0


@njit(fastmath=True)
def _chair(x, y, z):
    seat = _box(x, y + 0.10, z, 0.55, 0.09, 0.52)
    back = _box(x, y - 0.48, z + 0.43, 0.55, 0.58, 0.09)
    legs = _box(abs(x) - 0.45, y + 0.55, abs(z) - 0.42, 0.10, 0.45, 0.10)
    return min(seat, min(back, legs)), 0


@njit(fastmath=True)
def _duck(x, y, z, eyes):
    body = _ellipsoid(x, y + 0.32, z + 0.08, 0.60, 0.46, 0.82)
    head = _sphere(x, y - 0.38, z - 0.42, 0.40)
    k = 0.12  # a soft neck
    h = min(max(0.5 + 0.5 * (head - body) / k, 0.0), 1.0)
    d = head + (body - head) * h - k * h * (1.0 - h)
    d = min(d, _ellipsoid(x, y + 0.08, z + 0.86, 0.22, 0.26, 0.20))
    d, m = _union(d, 0, _ellipsoid(x, y - 0.30, z - 0.86, 0.22, 0.10, 0.26), 2)
    return _union(d, m, _sphere(abs(x) - 0.24, y - 0.52, z - 0.66, 0.11), eyes)


@njit(fastmath=True)
def _car(x, y, z, wheels):
    d = _box(x, y + 0.12, z, 0.52, 0.22, 1.00) - 0.03
    m = 0
    cabin = _box(x, y - 0.30, z + 0.12, 0.44, 0.24, 0.50) - 0.02
    glass = (abs(y - 0.31) < 0.16) and (abs(x) < 0.36 or abs(z + 0.12) < 0.40)
    d, m = _union(d, m, cabin, 7 if glass else 0)
    wheel = _capped_cylinder(
        math.sqrt((y + 0.36) ** 2 + (abs(z) - 0.58) ** 2), abs(x) - 0.47, 0.27, 0.12
    )
    d, m = _union(d, m, wheel, wheels)
    light = _sphere(abs(x) - 0.32, y + 0.06, abs(z) - 1.00, 0.13)
    return _union(d, m, light, 5 if z > 0 else 6)


@njit(fastmath=True)
def _house(x, y, z):
    d = _box(x, y + 0.35, z, 0.78, 0.50, 0.62)
    m = 0
    slope = (abs(z) * 0.75 + (y - 0.88) * 0.80) / 1.0966
    d, m = _union(d, m, max(max(slope, 0.10 - y), abs(x) - 0.92), 4)
    d, m = _union(d, m, _box(x, y + 0.52, z - 0.62, 0.17, 0.33, 0.04), 4)
    d, m = _union(d, m, _box(abs(x) - 0.50, y + 0.28, z - 0.62, 0.16, 0.16, 0.03), 5)
    return _union(d, m, _box(abs(x) - 0.78, y + 0.28, z, 0.03, 0.16, 0.16), 5)


@njit(fastmath=True)
def signed_distance(shape, dark, x, y, z):
    """Return the signed distance and the material of an object at a point.

    Args:
        shape: index of the object, in the order of ``scene.OBJECTS``.
        dark: whether the object is black, and so gets white eyes and wheels.
        x: right.
        y: up.
        z: toward the viewer of the front.
    """
    detail = 8 if dark else 3
    if shape < 6:
        return _primitive(shape, x, y, z)
    if shape == 6:
        return _mug(x, y, z)
    if shape == 7:
        return _mushroom(x, y, z)
    if shape == 8:
        return _snowman(x, y, z, detail)
    if shape == 9:
        return _table(x, y, z)
    if shape == 10:
        return _chair(x, y, z)
    if shape == 11:
        return _duck(x, y, z, detail)
    if shape == 12:
        return _car(x, y, z, detail)
    return _house(x, y, z)


@njit(fastmath=True)
def _shows_second_color(shape, pattern, x, y, z):
    """Whether a point of a patterned object has the second color; a table has upright stripes."""
    if pattern == 1:
        if shape == 9:
            return math.sin(9.5 * x) < 0.0
        return math.sin(9.5 * y + 0.6) < 0.0
    cells = math.floor(x * 2.2 + 0.5) + math.floor(y * 2.2 + 0.25) + math.floor(z * 2.2 + 0.5)
    return pattern == 2 and int(cells) % 2 != 0


@njit(fastmath=True)
def intersect(shape, dark, eye, dx, dy, dz):
    """Trace a ray until it meets an object.

    Args:
        shape: index of the object, in the order of ``scene.OBJECTS``.
        dark: whether the object is black.
        eye: origin of the ray, ``[3]``.
        dx: right part of the unit direction.
        dy: its upward part.
        dz: its part toward the viewer of the front.

    Returns:
        Whether the ray hits, the length of the ray and the material there.
    """
    b = eye[0] * dx + eye[1] * dy + eye[2] * dz
    disc = b * b - (eye[0] ** 2 + eye[1] ** 2 + eye[2] ** 2) + BOUND * BOUND
    if disc <= 0.0:
        return False, 0.0, 0
    t, end = -b - math.sqrt(disc), -b + math.sqrt(disc)
    for _ in range(72):
        d, m = signed_distance(shape, dark, eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz)
        if d < 2e-3:
            return True, t, m
        t += d * 0.95
        if t > end:
            return False, t, 0
    return False, t, 0


@njit(fastmath=True)
def _gradient(shape, x, y, z):
    """Return the gradient of the distance, not normalized, from four samples on a tetrahedron."""
    e = 1e-3
    d1 = signed_distance(shape, False, x + e, y - e, z - e)[0]
    d2 = signed_distance(shape, False, x - e, y - e, z + e)[0]
    d3 = signed_distance(shape, False, x - e, y + e, z - e)[0]
    d4 = signed_distance(shape, False, x + e, y + e, z + e)[0]
    return d1 - d2 - d3 + d4, -d1 - d2 + d3 + d4, -d1 + d2 - d3 + d4


@njit(fastmath=True)
def camera_axes(eye):
    """Return the unit axes right, up and ahead of a camera at ``eye`` that looks at the origin."""
    distance = math.sqrt(eye[0] ** 2 + eye[1] ** 2 + eye[2] ** 2)
    ahead = -eye / distance
    horizontal = math.sqrt(ahead[0] ** 2 + ahead[2] ** 2)
    right = np.array([-ahead[2] / horizontal, 0.0, ahead[0] / horizontal])
    up = np.array(
        [
            right[1] * ahead[2] - right[2] * ahead[1],
            right[2] * ahead[0] - right[0] * ahead[2],
            right[0] * ahead[1] - right[1] * ahead[0],
        ]
    )
    return right, up, ahead


@njit(fastmath=True)
def _shade(shape, pattern, dark, colors, eye, axes, u, v, out):
    """Write the color where a ray hits the object into ``out``; return False if it misses.

    ``colors`` holds the rows first, second, sky and ground; ``axes`` is from ``camera_axes``.
    """
    right, up, ahead = axes
    dx = ahead[0] + u * right[0] + v * up[0]
    dy = ahead[1] + u * right[1] + v * up[1]
    dz = ahead[2] + u * right[2] + v * up[2]
    n = math.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx / n, dy / n, dz / n
    hit, t, m = intersect(shape, dark, eye, dx, dy, dz)
    if not hit:
        return False
    x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
    nx, ny, nz = _gradient(shape, x, y, z)
    k = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
    # the light moves with the camera, upper left: front and back are lit alike
    lx = -0.45 * right[0] + 0.75 * up[0] - 0.55 * ahead[0]
    ly = -0.45 * right[1] + 0.75 * up[1] - 0.55 * ahead[1]
    lz = -0.45 * right[2] + 0.75 * up[2] - 0.55 * ahead[2]
    light = 0.42 + 0.62 * max((nx * lx + ny * ly + nz * lz) / (k * 1.033), 0.0)
    row = 1 if _shows_second_color(shape, pattern, x, y, z) else 0
    for i in range(3):
        base = colors[row, i] if m == 0 else MATERIALS[m, i]
        out[i] = min(base * light, 1.0)
    return True


@njit(fastmath=True)
def _trace_pixel(shape, pattern, dark, colors, eye, axes, px, py, size, out):
    """Write the color at a point of the image, in pixels, into ``out``."""
    scale = math.tan(FOV / 2.0)
    u, v = (2.0 * px / size - 1.0) * scale, (1.0 - 2.0 * py / size) * scale
    if not _shade(shape, pattern, dark, colors, eye, axes, u, v, out):
        k = py / size
        for i in range(3):
            out[i] = colors[2, i] * (1.0 - k) + colors[3, i] * k


@njit(fastmath=True)
def _contrast(image, py, px):
    """Return the largest difference between a pixel and its four neighbors, over the channels."""
    last = image.shape[0] - 1
    largest = 0.0
    for k in range(3):
        value = image[py, px, k]
        largest = max(largest, abs(value - image[py, min(px + 1, last), k]))
        largest = max(largest, abs(value - image[py, max(px - 1, 0), k]))
        largest = max(largest, abs(value - image[min(py + 1, last), px, k]))
        largest = max(largest, abs(value - image[max(py - 1, 0), px, k]))
    return largest


@njit(parallel=True, cache=True, fastmath=True)
def trace_scenes(shape, pattern, dark, colors, eyes, size):
    """Render N scenes: one ray per pixel, four where neighboring pixels differ.

    Args:
        shape: index of the object, ``[N]``.
        pattern: index of the pattern, ``[N]``.
        dark: whether the object is black, ``[N]``.
        colors: first and second color of the object, sky and ground in [0, 1], ``[N, 4, 3]``.
        eyes: positions of the cameras, which look at the origin, ``[N, 3]``.
        size: height and width in pixels.

    Returns:
        Images, uint8 ``[N, size, size, 3]``.
    """
    n = shape.shape[0]
    images = np.empty((n, size, size, 3), np.uint8)
    for i in prange(n):
        eye = eyes[i]
        axes = camera_axes(eye)
        s, p, d, rgb = shape[i], pattern[i], dark[i], colors[i]
        coarse = np.empty((size, size, 3))
        c = np.empty(3)
        for py in range(size):
            for px in range(size):
                _trace_pixel(s, p, d, rgb, eye, axes, px + 0.5, py + 0.5, size, c)
                coarse[py, px] = c
        for py in range(size):
            for px in range(size):
                value = coarse[py, px].copy()
                if _contrast(coarse, py, px) > 0.08:
                    value[:] = 0.0
                    for k in range(4):
                        sx, sy = px + 0.25 + 0.5 * (k % 2), py + 0.25 + 0.5 * (k // 2)
                        _trace_pixel(s, p, d, rgb, eye, axes, sx, sy, size, c)
                        value += c / 4.0
                for k in range(3):
                    images[i, py, px, k] = np.uint8(value[k] * 255.0 + 0.5)
    return images
