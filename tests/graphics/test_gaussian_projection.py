"""Projection and rendering of 3D Gaussians against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from gaussians import (
    DISTANCE,
    FOCAL,
    cameras_around,
    composite_densely,
    float_camera,
    front_camera,
    join,
    perturb,
    pixel_centers,
    random_gaussians,
    single_gaussian,
    splat_particles,
)
from tiny_pipeline import max_difference, normal, rng
from torch.nn import functional as F

from limbeck.graphics.rendering.gaussian_compositing import (
    LOW_PASS_VARIANCE,
    MIN_ALPHA,
    ProjectedGaussians,
    composite_gsplat,
    composite_torch,
    median_depths,
)
from limbeck.graphics.rendering.gaussian_projection import (
    GaussianBatch,
    depth_to_normals,
    project_gaussians,
    quats_to_rotations,
    render_gaussians,
)
from limbeck.representations.gaussian_splats import GaussianSplats

EYE_2 = torch.eye(2, dtype=torch.float64)


# One and two Gaussians


def test_an_isotropic_gaussian_on_the_axis_has_its_closed_form():
    y, x = pixel_centers(48, 64)
    z = 0.4
    gaussian = single_gaussian((0, 0, z), (0.1, 0.1, 0.1), 0.8)
    out = render_gaussians(gaussian, front_camera(), 48, 64)
    variance = (0.1 * 48 * FOCAL / (DISTANCE - z)) ** 2 + LOW_PASS_VARIANCE
    alpha = 0.8 * torch.exp(-((x - 32) ** 2 + (y - 24) ** 2) / (2 * variance))
    alpha = torch.where(alpha > MIN_ALPHA, alpha, 0)
    color = alpha * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    assert max_difference(out.alpha[0, 0], alpha) < 1e-6  # poses are in single precision
    assert max_difference(out.color[0], color) < 1e-6
    assert max_difference(out.depth[0, 0], torch.where(alpha > 0, DISTANCE - z, 0)) < 1e-5


def test_the_footprint_is_the_covariance_transformed_by_the_jacobian():
    """J by differences of the camera's own projection, so that signs and axes are checked too."""
    camera = cameras_around(3)
    gaussians = random_gaussians(12, views=3)
    projected = project_gaussians(gaussians, camera, 30, 50)
    step = 1e-5
    for b in range(3):

        def project(point, b=b):
            return camera.project(point[None], 30, 50)[b, 0, :2]

        for i in range(12):
            mean = gaussians.means[b, i]
            shifts = step * torch.eye(3, dtype=torch.float64)
            columns = [(project(mean + d) - project(mean - d)) / (2 * step) for d in shifts]
            jacobian = torch.stack(columns, 1)
            rotation = quats_to_rotations(gaussians.quats[b, i])
            world = rotation @ gaussians.scales[b, i].square().diag() @ rotation.T
            covariance = jacobian @ world @ jacobian.T + LOW_PASS_VARIANCE * EYE_2
            xx, xy, yy = projected.conics[b, i]
            inverse = torch.stack([xx, xy, xy, yy]).view(2, 2)
            assert max_difference(inverse @ covariance, EYE_2) < 1e-6
            assert max_difference(projected.means[b, i], project(mean)) < 1e-9
            assert max_difference(projected.stds[b, i], covariance.diagonal().sqrt()) < 1e-6


def test_two_gaussians_are_composited_front_to_back():
    far = single_gaussian((0.1, 0, -0.3), (0.2, 0.2, 0.2), 0.9, (0, 1, 0))
    near = single_gaussian((0, 0.05, 0.5), (0.1, 0.1, 0.1), 0.6, (1, 0, 0))
    camera = front_camera()
    a, b, both = (render_gaussians(g, camera, 40, 40) for g in (near, far, join(far, near)))
    assert max_difference(both.color, a.color + (1 - a.alpha) * b.color) < 1e-12
    alpha = 1 - (1 - a.alpha) * (1 - b.alpha)
    assert max_difference(both.alpha, alpha) < 1e-12
    near_depth, far_depth = DISTANCE - 0.5, DISTANCE + 0.3
    depth = a.alpha * near_depth + (1 - a.alpha) * b.alpha * far_depth
    assert max_difference(both.depth, depth / alpha.clamp_min(1e-6)) < 1e-5


def test_tiles_agree_with_dense_compositing():
    gaussians, camera = random_gaussians(80, views=3), cameras_around(3)
    projected = project_gaussians(gaussians, camera, 21, 34)
    exact = composite_densely(projected, 21, 34)
    assert max_difference(torch.cat(composite_torch(projected, 21, 34), 1), exact) < 1e-10
    single = GaussianBatch(*(values.float() for values in vars(gaussians).values()))
    tiles = composite_torch(project_gaussians(single, camera, 21, 34), 21, 34)
    difference = (torch.cat(tiles, 1).double() - exact).abs()
    assert float(difference.median()) < 1e-6
    assert float(difference.amax()) < 1e-2  # an alpha near 1/255 may be rounded to either side


def test_the_median_depth_is_that_of_the_gaussian_behind_which_half_is_hidden():
    gaussians, camera = random_gaussians(60, 2), cameras_around(2)
    projected = project_gaussians(gaussians, camera, 21, 21)
    depths = median_depths(projected, 21, 21)
    for b in range(2):
        order = projected.depths[b].argsort().tolist()
        expected, transmittance = torch.zeros(21, 21).double(), torch.ones(21, 21).double()
        for count in range(1, len(order) + 1):
            first = order[:count]
            some = ProjectedGaussians(*(x[b : b + 1, first] for x in vars(projected).values()))
            now = composite_densely(some, 21, 21)[0, -1]
            passed = (transmittance >= 0.5) & (now < 0.5)
            expected[passed] = projected.depths[b, first[-1]]
            transmittance = now
        assert 0.2 < (expected > 0).double().mean() < 0.98
        assert max_difference(depths[b, 0], expected) == 0


def test_the_order_of_the_gaussians_does_not_matter():
    gaussians, camera = random_gaussians(60, views=2), cameras_around(2)
    order = torch.randperm(60, generator=rng(3))
    shuffled = GaussianBatch(*(values[:, order] for values in vars(gaussians).values()))
    a, b = (vars(render_gaussians(g, camera, 24, 24)) for g in (gaussians, shuffled))
    assert max(max_difference(a[name], b[name]) for name in a) < 1e-12


def test_hidden_and_faint_gaussians_render_nothing_and_have_finite_gradients():
    behind_camera = single_gaussian((0, 0, DISTANCE + 0.5), (0.2,) * 3, 0.9)
    at_camera = single_gaussian((0, 0, DISTANCE), (0.2,) * 3, 0.9)
    faint = single_gaussian((0, 0, 0), (0.2,) * 3, 0.0039)
    visible = single_gaussian((0, 0.1, 0), (0.2,) * 3, 0.7)
    joined = join(behind_camera, at_camera, faint, visible)
    joined = GaussianBatch(*(values.requires_grad_() for values in vars(joined).values()))
    out = render_gaussians(joined, front_camera(), 24, 24)
    alone = render_gaussians(visible, front_camera(), 24, 24)
    assert max_difference(out.alpha, alone.alpha) < 1e-12
    (out.color.sum() + out.depth.sum()).backward()
    for values in vars(joined).values():
        assert bool(values.grad.isfinite().all()) and bool((values.grad[0, :3] == 0).all())
    empty = render_gaussians(join(behind_camera, faint), front_camera(), 24, 24)
    assert float(empty.alpha.abs().max()) == 0 and empty.color.shape == (1, 3, 24, 24)


def test_antialiased_gaussians_keep_their_light_at_every_resolution():
    """The integral of alpha in image units is constant even where a pixel is large."""
    speck = single_gaussian((0, 0, 0), (0.004,) * 3, 0.5)

    def light(size: int, antialiased: bool) -> float:
        out = render_gaussians(speck, front_camera(), size, size, antialiased=antialiased)
        return float(out.alpha.sum()) / size**2

    exact = 0.5 * 2 * math.pi * (0.004 * FOCAL / DISTANCE) ** 2
    assert light(64, antialiased=False) > 10 * exact
    assert light(512, antialiased=True) == pytest.approx(exact, rel=0.1)
    large = single_gaussian((0, 0, 0), (0.2,) * 3, 0.5)
    a, b = (
        render_gaussians(large, front_camera(), 64, 64, antialiased=antialiased).alpha
        for antialiased in (True, False)
    )
    assert max_difference(a, b) < 0.01


def test_the_gradient_of_the_screen_offset_is_that_of_a_shift():
    gaussians, camera = random_gaussians(5), cameras_around(1)
    offset = torch.zeros(1, 5, 2, dtype=torch.float64, requires_grad=True)
    probe = normal(1, 3, 16, 16, seed=4)

    def value(shift):
        return (render_gaussians(gaussians, camera, 16, 16, shift).color * probe).sum()

    (slope,) = torch.autograd.grad(value(offset), offset)
    for i in range(5):
        step = torch.zeros(1, 5, 2, dtype=torch.float64)
        step[0, i, 1] = 1e-6
        difference = float(value(step) - value(-step)) / 2e-6
        assert difference == pytest.approx(float(slope[0, i, 1]), abs=1e-6)


def test_discs_on_a_sphere_render_as_the_sphere():
    """Silhouette, depth and normals of the sphere of radius .8, from 6,000 flat Gaussians on it."""
    count, radius, size = 6000, 0.8, 96
    k = torch.arange(count, dtype=torch.float64) + 0.5
    height, angle = 1 - 2 * k / count, math.pi * (1 + 5**0.5) * k
    ring = (1 - height**2).sqrt()
    normals = torch.stack([ring * angle.cos(), height, ring * angle.sin()], 1)
    half = normals + torch.tensor([0.0, 0.0, 1.0])  # half-way between z and the normal
    quats = torch.stack([half[:, 2], -half[:, 1], half[:, 0], torch.zeros(count)], 1)
    quats = F.normalize(quats, dim=1)
    assert max_difference(quats_to_rotations(quats)[..., 2], normals) < 1e-9
    width = 0.8 * radius * math.sqrt(4 * math.pi / count)
    scales = torch.tensor([width, width, 1e-4], dtype=torch.float64).expand(count, 3)
    opacities = torch.full((count,), 0.95, dtype=torch.float64)
    values = (radius * normals, scales, quats, opacities, 0.5 + normals / 2)
    camera = cameras_around(2)[:1]
    out = render_gaussians(GaussianBatch(*(v[None] for v in values)), camera, size, size)

    rays = camera.directions(size, size)[0]
    along = -(rays @ camera.eye[0])
    discriminant = along**2 - DISTANCE**2 + radius**2
    distance = along - discriminant.clamp_min(0).sqrt()
    miss = (DISTANCE**2 - along**2).sqrt() - radius  # distance of the ray from the sphere
    pixel = DISTANCE / (size * FOCAL)
    alpha = out.alpha[0, 0]
    # the discs and the low-pass filter extend beyond the silhouette
    assert float(alpha[miss < 0].min()) > 0.95 and float(alpha[miss > 2.5 * pixel].max()) < 0.05
    core = discriminant > 0.3  # within 47 degrees of facing the camera
    depth = distance * (rays @ -camera.pose[0, :3, 2])
    assert float((out.depth[0, 0] - depth)[core].abs().max()) < width  # a disc has one depth
    outward = F.normalize(camera.eye[0] + distance[..., None] * rays, dim=-1)
    rendered = depth_to_normals(out.depth, out.alpha, camera)[0].permute(1, 2, 0)
    assert float((rendered * outward).sum(-1)[core].min()) > 0.95
    assert max_difference(out.color[0].permute(1, 2, 0)[core], 0.5 + outward[core] / 2) < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gsplat_agrees_with_plain_torch():
    pytest.importorskip("gsplat")
    config = GaussianSplats(num_gaussians=800, init_color_std=1.0)
    particles = perturb(splat_particles(config, 2), 0.2).cuda()
    camera = float_camera(cameras_around(3).to("cuda"))
    probe = normal(3, 5, 48, 80, dtype=torch.float32).cuda()
    projected = project_gaussians(particles.gaussians(torch.tensor([0, 1, 1])), camera, 48, 80)
    images, grads = [], []
    for composite in (composite_torch, composite_gsplat):
        image = torch.cat(composite(projected, 48, 80), 1)
        parameters = list(particles.parameters())
        images.append(image.detach().cpu())
        grads.append(torch.autograd.grad((image * probe).sum(), parameters, retain_graph=True))
    assert max_difference(*images) < 5e-3
    for a, b in zip(*grads, strict=True):
        assert float((a - b).norm()) < 0.02 * float(a.norm()) + 1e-6
