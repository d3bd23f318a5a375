"""2D Gaussians against the formula of their compositing, and gsplat against plain torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussians import composite_densely
from small_2d import all_particles
from tiny_pipeline import check_gradients, max_difference, normal

from limbeck.graphics.rendering.gaussian_compositing import (
    ProjectedGaussians,
    composite_gsplat,
    composite_torch,
)
from limbeck.representations.gaussians_2d import Gaussian2DParticles, Gaussians2D
from limbeck.system.random import RowRandom


def gaussian_particles(
    num_gaussians: int, size: tuple[int, int], particles: int = 1, seed: int = 0
) -> Gaussian2DParticles:
    config = Gaussians2D(num_gaussians=num_gaussians, init_color_std=1.0)
    initial = config._initial_params(RowRandom.initial(seed, particles), size)
    return Gaussian2DParticles(initial, config._lrs(), size, config.max_scale)


def random_gaussians(
    num_gaussians: int, height: int, width: int, images: int = 1, dtype=torch.float64
) -> ProjectedGaussians:
    """Rotated anisotropic Gaussians, some faint."""
    particles = gaussian_particles(num_gaussians, (height, width), images, seed=3).to(dtype)
    means = {id(p) for p in particles.params["means"]}
    for i, p in enumerate(particles.parameters()):
        std = 0.07 if id(p) in means else 0.7
        p.data += std * normal(*p.shape, seed=i, dtype=dtype)
    return particles.projected_gaussians(torch.arange(images), height, width)


def test_tiles_agree_with_dense_compositing():
    gaussians = random_gaussians(60, 21, 34, images=2)
    exact = composite_densely(gaussians, 21, 34)
    assert max_difference(torch.cat(composite_torch(gaussians, 21, 34), 1), exact) < 1e-12
    single = random_gaussians(60, 21, 34, images=2, dtype=torch.float32)
    # an alpha near 1/255 may be rounded to either side
    assert max_difference(torch.cat(composite_torch(single, 21, 34), 1), exact) < 1e-3


def test_the_background_is_weighted_by_the_transmittance():
    particles = gaussian_particles(20, (9, 12)).double()
    particles.params["background"][0].data.copy_(normal(3, seed=1))
    gaussians = particles.projected_gaussians(torch.arange(1), 9, 12)
    color, transmittance = composite_densely(gaussians, 9, 12).split([3, 1], 1)
    background = particles.params["background"][0].sigmoid()[:, None, None]
    image = particles.render(all_particles(1)).image
    assert max_difference(image, color + transmittance * background) < 1e-12


def test_the_covariance_follows_from_scales_and_rotation():
    particles = gaussian_particles(4, (16, 24)).double()
    for i, p in enumerate(particles.parameters()):
        p.data += normal(*p.shape, seed=i)
    gaussians = particles.projected_gaussians(torch.arange(1), 16, 24)
    scales = 0.25 * 16 * particles.params["scales"][0].sigmoid()
    angles = particles.params["rotations"][0]
    for i in range(4):
        cos, sin = angles[i].cos(), angles[i].sin()
        rotation = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
        low_pass = 0.3 * torch.eye(2, dtype=torch.float64)
        covariance = rotation @ scales[i].square().diag() @ rotation.T + low_pass
        xx, xy, yy = gaussians.conics[0, i]
        inverse = torch.stack([xx, xy, xy, yy]).reshape(2, 2)
        assert max_difference(inverse, covariance.inverse()) < 1e-10
        assert max_difference(gaussians.stds[0, i], covariance.diagonal().sqrt()) < 1e-10


def test_gradients_are_finite_differences():
    particles = gaussian_particles(6, (9, 12)).double()
    for i, p in enumerate(particles.parameters()):
        p.data += 0.3 * normal(*p.shape, seed=i)
    probe = normal(1, 3, 9, 12, seed=9)

    def loss():
        return (particles.render_at(torch.arange(1), 9, 12) * probe).sum()

    check_gradients(particles, loss, 1e-6)


def test_gaussians_outside_the_image_or_transparent_leave_the_background():
    gaussians = random_gaussians(3, 16, 16)
    outside = replace(gaussians, means=gaussians.means + 1000)
    transparent = replace(gaussians, opacities=gaussians.opacities * 0)
    for invisible in (outside, transparent):
        color, transmittance = composite_torch(invisible, 16, 16)
        assert color.shape == (1, 3, 16, 16)
        assert bool((color == 0).all()) and bool((transmittance == 1).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gaussians": 0}, "num_gaussians must be at least 1, not 0"),
        ({"init_opacity": 1.0}, r"init_opacity must be in \(0, 0.99\), not 1"),
        ({"scales_lr": 0.0}, "scales_lr must be positive, not 0"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Gaussians2D(**options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gsplat_agrees_with_plain_torch():
    pytest.importorskip("gsplat")
    particles = gaussian_particles(500, (48, 80), 2).cuda()
    parameters = [p for p in particles.parameters() if p.dim() == 2]
    probe = normal(2, 4, 48, 80, dtype=torch.float32).cuda()
    images, grads = [], []
    for composite in (composite_torch, composite_gsplat):
        gaussians = particles.projected_gaussians(torch.arange(2), 48, 80)
        image = torch.cat(composite(gaussians, 48, 80), 1)
        images.append(image.detach().cpu())
        grads.append(torch.autograd.grad((image * probe).sum(), parameters))
    assert max_difference(*images) < 2e-3
    for a, b in zip(*grads, strict=True):
        assert float((a - b).norm() / a.norm()) < 0.02
