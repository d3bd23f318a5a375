"""Cameras: pinholes around the origin of a right-handed space, y up, whose objects face +z as those of glTF do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras.

    pose ``[B, 4, 4]`` takes the camera's space to the world's; in its own space a camera looks along -z, x is right and y up (as
    OpenGL has it). fov ``[B]``: vertical field of view in radians.
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
        """Where the cameras stand."""
        return self.pose[:, :3, 3]

    @property
    def azimuth(self) -> Float[Tensor, "b"]:
        """Radians in (-pi, pi] around y: 0 before the object, on +z; pi / 2 on +x."""
        return torch.atan2(self.eye[:, 0], self.eye[:, 2])

    @property
    def elevation(self) -> Float[Tensor, "b"]:
        """Radians above the horizontal plane, in [-pi / 2, pi / 2]."""
        return torch.atan2(self.eye[:, 1], self.eye[:, ::2].norm(dim=1))

    @property
    def distance(self) -> Float[Tensor, "b"]:
        """From the origin."""
        return self.eye.norm(dim=1)

    def directions(self, height: int, width: int) -> Float[Tensor, "b h w 3"]:
        """Unit vectors through the middles of the pixels, row 0 the top one; rays start at ``eye``."""
        half = (self.fov / 2).tan()[:, None, None]
        y, x = (
            _middles(height).to(half)[:, None] * -half,
            _middles(width).to(half) * half * (width / height),
        )
        y, x = torch.broadcast_tensors(y, x)
        own = torch.stack([x, y, -torch.ones_like(x)], -1)
        return torch.nn.functional.normalize(
            torch.einsum("bij,bhwj->bhwi", self.pose[:, :3, :3], own), dim=-1
        )

    def to_camera_space(
        self, points: Float[Tensor, "n 3"] | Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n 3"]:
        """World points in the space of each camera: before it are those of negative z."""
        return (points - self.eye[:, None]) @ self.pose[:, :3, :3]

    def project(
        self, points: Float[Tensor, "n 3"] | Float[Tensor, "b n 3"], height: int, width: int
    ) -> Float[Tensor, "b n 3"]:
        """World points in the picture: column and row in pixels (0 is the left or top edge, pixel middles lie at .5), and the
        depth along the line of sight, positive in front of the camera."""
        own = self.to_camera_space(points)
        depth = -own[..., 2]
        focal = (height / 2 / (self.fov / 2).tan())[:, None]
        return torch.stack(
            [
                width / 2 + focal * own[..., 0] / depth,
                height / 2 - focal * own[..., 1] / depth,
                depth,
            ],
            -1,
        )


def _middles(count: int) -> Float[Tensor, "n"]:
    return (torch.arange(count) + 0.5) / count * 2 - 1


def look_at(eye: Float[Tensor, "b 3"], at: Float[Tensor, "b 3"], fov: Float[Tensor, "b"], up: Float[Tensor, "b 3"] | None = None
            ) -> Camera:  # fmt: skip
    """Cameras at ``eye`` that look at ``at``, ``up`` being up in the picture (y if left out; near the poles -z, so that the front
    of the object lies at the bottom of the picture)."""
    back = torch.nn.functional.normalize(eye - at, dim=1)
    if up is None:
        steep = back[:, 1:2].abs() > 0.9999
        up = torch.where(
            steep, torch.tensor([0.0, 0.0, -1.0]).to(eye), torch.tensor([0.0, 1.0, 0.0]).to(eye)
        )
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=1)
    pose = torch.zeros(len(eye), 4, 4).to(eye)
    pose[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, eye], 2)
    pose[:, 3, 3] = 1
    return Camera(pose, fov)


def orbit_cameras(
    azimuth: Float[Tensor, "b"],
    elevation: Float[Tensor, "b"],
    distance: float | Float[Tensor, "b"],
    fov: float,
) -> Camera:
    """Cameras on a sphere about the origin that look at it. Angles in radians; fov in degrees, as people say it."""
    toward = unit_direction(azimuth, elevation)
    eye = toward * torch.as_tensor(distance).to(toward).expand(len(toward))[:, None]
    return look_at(eye, torch.zeros_like(eye), torch.full_like(azimuth, math.radians(fov)))


def unit_direction(
    azimuth: Float[Tensor, "b"], elevation: Float[Tensor, "b"]
) -> Float[Tensor, "b 3"]:
    """The unit vector towards an azimuth and an elevation in radians."""
    flat = elevation.cos()
    return torch.stack([azimuth.sin() * flat, elevation.sin(), azimuth.cos() * flat], 1)


def turntable_cameras(count: int, elevation: float, distance: float, fov: float) -> Camera:
    """``count`` cameras once around the object, the first before it; elevation and fov in degrees."""
    azimuth = torch.arange(count) * (2 * math.pi / count)
    return orbit_cameras(azimuth, torch.full_like(azimuth, math.radians(elevation)), distance, fov)
