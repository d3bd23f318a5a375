"""Pinhole cameras in a right-handed world: y up, the front of an object faces +z (as in glTF)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras.

    Attributes:
        pose: ``[B, 4, 4]`` camera-to-world matrices. In camera space the camera looks along -z,
            with x to the right and y up (OpenGL convention).
        fov: ``[B]`` vertical fields of view in radians.
    """

    pose: Float[Tensor, "b 4 4"]
    fov: Float[Tensor, "b"]

    def __len__(self) -> int:
        return len(self.pose)

    def __getitem__(self, rows: Tensor | slice) -> Camera:
        return Camera(self.pose[rows], self.fov[rows])

    def to(self, device: str | torch.device) -> Camera:
        return Camera(self.pose.to(device), self.fov.to(device))

    @property
    def eye(self) -> Float[Tensor, "b 3"]:
        """Camera positions in world space."""
        return self.pose[:, :3, 3]

    @property
    def azimuth(self) -> Float[Tensor, "b"]:
        """Angle around y in radians, in (-pi, pi]: 0 on +z (front), pi / 2 on +x."""
        return torch.atan2(self.eye[:, 0], self.eye[:, 2])

    @property
    def elevation(self) -> Float[Tensor, "b"]:
        """Angle above the horizontal plane in radians, in [-pi / 2, pi / 2]."""
        return torch.atan2(self.eye[:, 1], self.eye[:, ::2].norm(dim=1))

    @property
    def distance(self) -> Float[Tensor, "b"]:
        """Distance from the origin."""
        return self.eye.norm(dim=1)

    def directions(self, height: int, width: int) -> Float[Tensor, "b h w 3"]:
        """Unit directions of the rays from ``eye`` through the pixel centers; row 0 is the top."""
        half = (self.fov / 2).tan()[:, None, None]
        y = _pixel_centers(height).to(half)[:, None] * -half
        x = _pixel_centers(width).to(half) * half * (width / height)
        y, x = torch.broadcast_tensors(y, x)
        in_camera_space = torch.stack([x, y, -torch.ones_like(x)], -1)
        return torch.nn.functional.normalize(
            torch.einsum("bij,bhwj->bhwi", self.pose[:, :3, :3], in_camera_space), dim=-1
        )

    def to_camera_space(
        self, points: Float[Tensor, "n 3"] | Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n 3"]:
        """World points in the space of each camera; z is negative in front of it."""
        return (points - self.eye[:, None]) @ self.pose[:, :3, :3]

    def project(
        self, points: Float[Tensor, "n 3"] | Float[Tensor, "b n 3"], height: int, width: int
    ) -> Float[Tensor, "b n 3"]:
        """Project world points to pixels.

        Args:
            points: world points, shared by all cameras or one set per camera.
            height: image height in pixels.
            width: image width in pixels.

        Returns:
            ``[B, N, 3]``: column and row in pixels (0 is the left or top edge, pixel centers lie at
            .5), and depth along the viewing direction, positive in front of the camera.
        """
        local = self.to_camera_space(points)
        depth = -local[..., 2]
        focal = (height / 2 / (self.fov / 2).tan())[:, None]
        column = width / 2 + focal * local[..., 0] / depth
        row = height / 2 - focal * local[..., 1] / depth
        return torch.stack([column, row, depth], -1)


def _pixel_centers(count: int) -> Float[Tensor, "n"]:
    """Centers of ``count`` pixels across [-1, 1]."""
    return (torch.arange(count) + 0.5) / count * 2 - 1


def look_at(
    eye: Float[Tensor, "b 3"],
    at: Float[Tensor, "b 3"],
    fov: Float[Tensor, "b"],
    up: Float[Tensor, "b 3"] | None = None,
) -> Camera:
    """Build cameras from position and target.

    Args:
        eye: camera positions.
        at: points the cameras look at.
        fov: vertical fields of view in radians.
        up: direction that is up in the image. None: y, or -z near the poles, so that the front of
            the object is at the bottom of the image.
    """
    backward = torch.nn.functional.normalize(eye - at, dim=1)
    if up is None:
        near_pole = backward[:, 1:2].abs() > 0.9999
        pole_up = torch.tensor([0.0, 0.0, -1.0]).to(eye)
        y_up = torch.tensor([0.0, 1.0, 0.0]).to(eye)
        up = torch.where(near_pole, pole_up, y_up)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=1)
    pose = torch.zeros(len(eye), 4, 4).to(eye)
    pose[:, :3] = torch.stack([right, torch.linalg.cross(backward, right), backward, eye], 2)
    pose[:, 3, 3] = 1
    return Camera(pose, fov)


def orbit_cameras(
    azimuth: Float[Tensor, "b"],
    elevation: Float[Tensor, "b"],
    distance: float | Float[Tensor, "b"],
    fov: float,
) -> Camera:
    """Build cameras on a sphere around the origin that look at the origin.

    Args:
        azimuth: angles around y in radians; 0 is the front (+z), pi / 2 is +x.
        elevation: angles above the horizontal plane in radians.
        distance: distances from the origin.
        fov: vertical field of view in degrees.
    """
    direction = unit_direction(azimuth, elevation)
    eye = direction * torch.as_tensor(distance).to(direction).expand(len(direction))[:, None]
    return look_at(eye, torch.zeros_like(eye), torch.full_like(azimuth, math.radians(fov)))


def spiral_angles(
    count: int, lowest: float = -90.0, highest: float = 90.0
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Azimuths and elevations in radians, as many in equal areas of a sphere.

    They lie on a spiral from below to above, a golden angle apart.

    Args:
        count: number of directions.
        lowest: lower end of the elevations in degrees.
        highest: upper end of the elevations in degrees.
    """
    low, high = (math.sin(math.radians(elevation)) for elevation in (lowest, highest))
    index = torch.arange(count) + 0.5
    elevation = (low + (high - low) * index / count).asin()
    return index * (math.pi * (3 - math.sqrt(5))), elevation


def unit_direction(
    azimuth: Float[Tensor, "b"], elevation: Float[Tensor, "b"]
) -> Float[Tensor, "b 3"]:
    """Unit vectors from the origin towards an azimuth and an elevation in radians."""
    horizontal = elevation.cos()
    return torch.stack([azimuth.sin() * horizontal, elevation.sin(), azimuth.cos() * horizontal], 1)


def turntable_cameras(count: int, elevation: float, distance: float, fov: float) -> Camera:
    """Build cameras at evenly spaced azimuths around the object, starting at the front.

    Args:
        count: number of cameras.
        elevation: angle above the horizontal plane in degrees.
        distance: distance from the origin.
        fov: vertical field of view in degrees.
    """
    azimuth = torch.arange(count) * (2 * math.pi / count)
    return orbit_cameras(azimuth, torch.full_like(azimuth, math.radians(elevation)), distance, fov)
