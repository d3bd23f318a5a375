"""Projection of 3D Gaussians to a camera: EWA splatting (Zwicker et al. 2001).

As done by Kerbl et al. 2023, 3D Gaussian splatting, arXiv 2308.04079.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.rendering.gaussian_compositing import (
    LOW_PASS_VARIANCE,
    ProjectedGaussians,
    composite_gaussians,
)

NEAR_PLANE = 0.05  #: Gaussians nearer to the camera are not rendered
#: The Jacobian is evaluated at most this many times the half image away from the center, since it
#: grows without bound outside.
FRUSTUM_MARGIN = 1.3
_NORMAL_MIN_ALPHA = 0.5  #: pixels with a smaller alpha have no normal


@dataclass(frozen=True)
class GaussianBatch:
    """3D Gaussians in world space, one set per view.

    Attributes:
        means: ``[B, N, 3]`` centers.
        scales: ``[B, N, 3]`` standard deviations along the Gaussian's axes.
        quats: ``[B, N, 4]`` unit quaternions (w, x, y, z).
        opacities: ``[B, N]`` up to ``MAX_OPACITY``.
        colors: ``[B, N, 3]`` RGB.
    """

    means: Float[Tensor, "b n 3"]
    scales: Float[Tensor, "b n 3"]
    quats: Float[Tensor, "b n 4"]
    opacities: Float[Tensor, "b n"]
    colors: Float[Tensor, "b n 3"]


@dataclass(frozen=True)
class SplatRender:
    """Renders of Gaussians, without a background.

    Attributes:
        color: ``[B, 3, H, W]`` colors, premultiplied by alpha.
        alpha: ``[B, 1, H, W]``.
        depth: ``[B, 1, H, W]`` mean depth along the viewing direction; 0 where alpha is 0.
    """

    color: Float[Tensor, "b 3 h w"]
    alpha: Float[Tensor, "b 1 h w"]
    depth: Float[Tensor, "b 1 h w"]


def quats_to_rotations(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = quats.unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def project_gaussians(
    gaussians: GaussianBatch, camera: Camera, height: int, width: int, antialiased: bool = False
) -> ProjectedGaussians:
    """Project Gaussians to the screen: S' = J W S W^T J^T (Kerbl et al. eq. 5) plus a low-pass.

    J is the Jacobian of the projection, W the rotation to camera space; the low-pass adds
    ``LOW_PASS_VARIANCE``. The result's ``colors`` are RGB and depth.

    Args:
        gaussians: one set of Gaussians per camera.
        camera: cameras.
        height: image height in pixels.
        width: image width in pixels.
        antialiased: multiply opacities by the square root of the ratio of the determinants without
            and with the low-pass, so that Gaussians smaller than a pixel keep their total opacity
            at every resolution (Mip-Splatting, Yu et al. 2023, arXiv 2311.16493).
    """
    pose = camera.pose.to(gaussians.means)
    x, y, z = _to_view_space(gaussians.means, pose).unbind(-1)
    in_front = z > NEAR_PLANE
    depth = torch.where(in_front, z, torch.ones_like(z))
    half = (camera.fov.to(z) / 2).tan()[:, None]
    focal = height / 2 / half
    u, v = x / depth, y / depth
    means = torch.stack([width / 2 + focal * u, height / 2 + focal * v], -1)
    u_max, v_max = FRUSTUM_MARGIN * half * (width / height), FRUSTUM_MARGIN * half
    # rows of W R diag(s), whose product with its own transpose is W S W^T
    axes = torch.einsum("bij,bnjk->bnik", _view_rotation(pose), quats_to_rotations(gaussians.quats))
    axes = axes * gaussians.scales[..., None, :]

    def jacobian_row(axis: int, ratio: Tensor, limit: Tensor) -> Tensor:
        ratio = ratio.clamp(-limit, limit)[..., None]
        return (axes[..., axis, :] - ratio * axes[..., 2, :]) * (focal / depth)[..., None]

    j_x, j_y = jacobian_row(0, u, u_max), jacobian_row(1, v, v_max)
    xx, xy, yy = (j_x * j_x).sum(-1), (j_x * j_y).sum(-1), (j_y * j_y).sum(-1)
    # by a cross product, since xx yy - xy^2 is a difference of large numbers
    sharp_determinant = torch.linalg.cross(j_x, j_y).square().sum(-1)
    determinant = sharp_determinant + LOW_PASS_VARIANCE * (xx + yy) + LOW_PASS_VARIANCE**2
    xx, yy = xx + LOW_PASS_VARIANCE, yy + LOW_PASS_VARIANCE
    opacities = gaussians.opacities * in_front
    if antialiased:
        opacities = opacities * (sharp_determinant / determinant).clamp_min(1e-12).sqrt()
    conics = torch.stack([yy, -xy, xx], -1) / determinant[..., None]
    stds = torch.stack([xx, yy], -1).sqrt()
    colors = torch.cat([gaussians.colors, depth[..., None]], -1)
    return ProjectedGaussians(means, conics, stds, colors, opacities, depth)


def _view_rotation(pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 3 3"]:
    """Rotation from world axes to right, down and forward, along which pixels and depth grow."""
    return pose[:, :3, :3].mT * pose.new_tensor([1.0, -1.0, -1.0])[:, None]


def _to_view_space(
    points: Float[Tensor, "b n 3"], pose: Float[Tensor, "b 4 4"]
) -> Float[Tensor, "b n 3"]:
    """World points along right, down and forward of each camera."""
    return (points - pose[:, None, :3, 3]) @ _view_rotation(pose).mT


def render_gaussians(
    gaussians: GaussianBatch,
    camera: Camera,
    height: int,
    width: int,
    screen_offset: Float[Tensor, "b n 2"] | None = None,
    antialiased: bool = False,
) -> SplatRender:
    """Render Gaussians.

    Args:
        gaussians: one set of Gaussians per camera.
        camera: cameras.
        height: image height in pixels.
        width: image width in pixels.
        screen_offset: added to the projected means, in pixels; zeros whose gradient is wanted.
        antialiased: as in ``project_gaussians``.
    """
    projected = project_gaussians(gaussians, camera, height, width, antialiased)
    if screen_offset is not None:
        projected = replace(projected, means=projected.means + screen_offset)
    channels, transmittance = composite_gaussians(projected, height, width)
    alpha = 1 - transmittance
    return SplatRender(channels[:, :3], alpha, channels[:, 3:4] / alpha.clamp_min(1e-6))


def depth_to_normals(
    depth: Float[Tensor, "b 1 h w"], alpha: Float[Tensor, "b 1 h w"], camera: Camera
) -> Float[Tensor, "b 3 h w"]:
    """Unit normals in world space of the surface that a depth map shows.

    Args:
        depth: depth along the viewing direction.
        alpha: normals are 0 where alpha is at most 0.5.
        camera: cameras of the depth maps.
    """
    h, w = depth.shape[2:]
    directions = camera.directions(h, w).to(depth)
    forward = -camera.pose[:, :3, 2].to(depth)
    cosine = torch.einsum("bhwi,bi->bhw", directions, forward)
    rays = directions / cosine[..., None]  # of unit depth
    points = (rays * depth[:, 0, ..., None]).permute(0, 3, 1, 2)
    points = F.pad(points, (1, 1, 1, 1), mode="replicate")
    d_x = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2]
    d_y = points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1]
    normals = F.normalize(torch.linalg.cross(d_y, d_x, dim=1), dim=1, eps=1e-8)
    return normals * (alpha > _NORMAL_MIN_ALPHA)
