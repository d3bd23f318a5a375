"""3D Gaussians and cameras for the tests of Gaussian splatting."""

from __future__ import annotations

import math

import torch
from tiny_pipeline import normal
from torch import Tensor
from torch.nn import functional as F

from limbeck.graphics.cameras.camera import Camera, orbit_cameras, turntable_cameras
from limbeck.graphics.rendering.gaussian_compositing import MIN_ALPHA, ProjectedGaussians
from limbeck.graphics.rendering.gaussian_projection import GaussianBatch
from limbeck.representations.gaussian_splats import GaussianSplatParticles, GaussianSplats

DISTANCE, FOV = 3.6, 40.0
FOCAL = 1 / (2 * math.tan(math.radians(FOV / 2)))  #: Focal length in image heights.


def double_camera(camera: Camera) -> Camera:
    return Camera(camera.pose.double(), camera.fov.double())


def float_camera(camera: Camera) -> Camera:
    return Camera(camera.pose.float(), camera.fov.float())


def front_camera() -> Camera:
    return double_camera(turntable_cameras(1, 0.0, DISTANCE, FOV))


def cameras_around(count: int) -> Camera:
    azimuth, elevation = torch.linspace(0.3, 5, count), torch.linspace(-0.2, 1.2, count)
    return double_camera(orbit_cameras(azimuth, elevation, DISTANCE, FOV))


def single_gaussian(
    mean, scale, opacity: float, color=(1.0, 0.5, 0.2), quat=(1.0, 0.0, 0.0, 0.0)
) -> GaussianBatch:
    mean, scale, quat, opacity, color = (
        torch.tensor([[values]], dtype=torch.float64)
        for values in (mean, scale, quat, opacity, color)
    )
    return GaussianBatch(mean, scale, F.normalize(quat, dim=-1), opacity, color)


def join(*batches: GaussianBatch) -> GaussianBatch:
    columns = zip(*(vars(batch).values() for batch in batches), strict=True)
    return GaussianBatch(*(torch.cat(column, 1) for column in columns))


def random_gaussians(count: int, views: int = 1, seed: int = 0) -> GaussianBatch:
    """Rotated anisotropic Gaussians around the origin, some faint; the same in every view."""

    def draw(k: int, *shape: int) -> Tensor:
        values = normal(1, count, *shape, seed=seed + k)
        return values.repeat(views, *[1] * (1 + len(shape)))

    return GaussianBatch(
        0.5 * draw(0, 3),
        0.12 * (0.6 * draw(1, 3)).exp(),
        F.normalize(draw(2, 4), dim=-1),
        0.98 * draw(3).sigmoid(),
        draw(4, 3).sigmoid(),
    )


def pixel_centers(height: int, width: int) -> tuple[Tensor, Tensor]:
    """y and x of the pixel centers, each [height, width]."""
    y, x = (torch.arange(size, dtype=torch.float64) + 0.5 for size in (height, width))
    return torch.meshgrid(y, x, indexing="ij")


def composite_densely(gaussians: ProjectedGaussians, height: int, width: int) -> Tensor:
    """The formula of compositing, Gaussian by Gaussian over all pixels, by depth.

    Returns the colors and, as last channel, the transmittance.
    """
    y, x = (values.to(gaussians.means) for values in pixel_centers(height, width))
    images = []
    for b, opacities in enumerate(gaussians.opacities):
        order = range(len(opacities))
        if gaussians.depths is not None:
            order = gaussians.depths[b].argsort().tolist()
        image = torch.zeros(gaussians.colors.shape[-1], height, width).to(x)
        transmittance = torch.ones_like(x)
        for i in order:
            dx, dy = x - gaussians.means[b, i, 0], y - gaussians.means[b, i, 1]
            xx, xy, yy = gaussians.conics[b, i]
            exponent = -(xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy) / 2
            alpha = opacities[i] * torch.exp(exponent)
            alpha = torch.where(alpha > MIN_ALPHA, alpha, 0)
            image = image + transmittance * alpha * gaussians.colors[b, i, :, None, None]
            transmittance = transmittance * (1 - alpha)
        images.append(torch.cat([image, transmittance[None]]))
    return torch.stack(images)


def splat_particles(
    config: GaussianSplats, count: int = 1, size: tuple[int, int] = (12, 12)
) -> GaussianSplatParticles:
    return GaussianSplatParticles(config, config._initial_params(count, 0), size, 0)


def perturb(
    particles: GaussianSplatParticles, std: float = 0.3, seed: int = 0
) -> GaussianSplatParticles:
    for i, p in enumerate(particles.parameters()):
        p.data += std * normal(*p.shape, seed=seed + i, dtype=p.dtype)
    return particles
