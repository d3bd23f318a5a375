"""3D Gaussians before a camera: EWA splatting (Zwicker et al. 2001) as Kerbl et al. 2023 (arXiv 2308.04079) do it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.rendering.gaussian_compositing import LOW_PASS_VARIANCE, ProjectedGaussians, composite_gaussians

NEAR_PLANE = 0.05  #: what is nearer to the eye is not seen
FRUSTUM_MARGIN = 1.3  #: J is taken no farther out than this many times the half picture, where it would stretch without bound
NORMAL_MIN_ALPHA = 0.5  #: alpha from which a pixel has a normal


@dataclass(frozen=True)
class GaussianBatch:
    """Gaussians in world space, a set for each view: means, deviations along their own axes, unit quaternions (w, x, y, z),
    opacities up to ``DENSEST`` and colours."""

    mean: Float[Tensor, "b n 3"]
    scale: Float[Tensor, "b n 3"]
    turn: Float[Tensor, "b n 4"]
    opacity: Float[Tensor, "b n"]
    colour: Float[Tensor, "b n 3"]


@dataclass(frozen=True)
class SplatRender:
    """What cameras see: colours times their share of the light (no background yet), alpha, and the mean depth along the line of
    sight of what is seen (0 where alpha is)."""

    colour: Float[Tensor, "b 3 h w"]
    alpha: Float[Tensor, "b 1 h w"]
    depth: Float[Tensor, "b 1 h w"]


def quats_to_rotations(turn: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """The matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = turn.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def project_gaussians(
    ellipsoids: GaussianBatch, camera: Camera, height: int, width: int, sharp: bool = False
) -> ProjectedGaussians:
    """S' = J W S W^T J^T (Kerbl et al. eq. 5) with the low-pass of ``BLUR`` square pixels; J is the Jacobian of the projection.

    sharp: opacities fall by the root of the quotient of the determinants without and with the low-pass (Mip-Splatting, Yu et al.
    2023, arXiv 2311.16493), so that what is smaller than a pixel stays as faint as it is, at every resolution.
    """
    pose = camera.pose.to(ellipsoids.mean)
    x, y, z = _camera_space(ellipsoids.mean, pose).unbind(-1)
    before = z > NEAR_PLANE
    depth = torch.where(before, z, torch.ones_like(z))
    half = (camera.fov.to(z) / 2).tan()[:, None]
    focal = height / 2 / half
    u, v = x / depth, y / depth
    mean = torch.stack([width / 2 + focal * u, height / 2 + focal * v], -1)
    wide, tall = FRUSTUM_MARGIN * half * (width / height), FRUSTUM_MARGIN * half
    # rows of W R diag(s), whose product with its own transpose is W S W^T
    turned = (
        torch.einsum("bij,bnjk->bnik", _to_camera(pose), quats_to_rotations(ellipsoids.turn))
        * ellipsoids.scale[..., None, :]
    )
    across = (turned[..., 0, :] - u.clamp(-wide, wide)[..., None] * turned[..., 2, :]) * (
        focal / depth
    )[..., None]
    down = (turned[..., 1, :] - v.clamp(-tall, tall)[..., None] * turned[..., 2, :]) * (
        focal / depth
    )[..., None]
    xx, xy, yy = (across * across).sum(-1), (across * down).sum(-1), (down * down).sum(-1)
    own = (
        torch.linalg.cross(across, down).square().sum(-1)
    )  # the determinant without a difference of large numbers
    determinant = own + LOW_PASS_VARIANCE * (xx + yy) + LOW_PASS_VARIANCE**2
    xx, yy = xx + LOW_PASS_VARIANCE, yy + LOW_PASS_VARIANCE
    opacity = ellipsoids.opacity * before
    if sharp:
        opacity = opacity * (own / determinant).clamp_min(1e-12).sqrt()
    inverse = torch.stack([yy, -xy, xx], -1) / determinant[..., None]
    colour = torch.cat([ellipsoids.colour, depth[..., None]], -1)
    return ProjectedGaussians(
        mean, inverse, torch.stack([xx, yy], -1).sqrt(), colour, opacity, depth
    )


def _to_camera(pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 3 3"]:
    """From the world's axes to right, down and ahead, along which pixels and depth grow."""
    return pose[:, :3, :3].mT * pose.new_tensor([1.0, -1.0, -1.0])[:, None]


def _camera_space(
    points: Float[Tensor, "b n 3"], pose: Float[Tensor, "b 4 4"]
) -> Float[Tensor, "b n 3"]:
    """World points along right, down and ahead of each camera."""
    return (points - pose[:, None, :3, 3]) @ _to_camera(pose).mT


def render_gaussians(ellipsoids: GaussianBatch, camera: Camera, height: int, width: int, shift: Float[Tensor, "b n 2"] | None = None,
          sharp: bool = False) -> SplatRender:  # fmt: skip
    """What cameras see of Gaussians, each camera its own set. shift: of the means on the screen, in pixels; zeros whose gradient is
    wanted. sharp: as in ``projected``."""
    cloud = project_gaussians(ellipsoids, camera, height, width, sharp)
    if shift is not None:
        cloud = ProjectedGaussians(
            cloud.mean + shift,
            cloud.inverse,
            cloud.spread,
            cloud.colour,
            cloud.opacity,
            cloud.depth,
        )
    shown, left = composite_gaussians(cloud, height, width)
    alpha = 1 - left
    return SplatRender(shown[:, :3], alpha, shown[:, 3:4] / alpha.clamp_min(1e-6))


def depth_to_normals(
    depth: Float[Tensor, "b 1 h w"], alpha: Float[Tensor, "b 1 h w"], camera: Camera
) -> Float[Tensor, "b 3 h w"]:
    """Unit vectors across the surface that a depth map shows, in the space of the world; 0 where alpha is below .5."""
    h, w = depth.shape[2:]
    rays = camera.directions(h, w).to(depth)
    ahead = -camera.pose[:, :3, 2].to(depth)
    along = rays / torch.einsum("bhwi,bi->bhw", rays, ahead)[..., None]
    points = F.pad(
        (along * depth[:, 0, ..., None]).permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate"
    )
    over, down = (
        points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2],
        points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1],
    )
    return F.normalize(torch.linalg.cross(down, over, dim=1), dim=1, eps=1e-8) * (alpha > NORMAL_MIN_ALPHA)
