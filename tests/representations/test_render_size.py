"""Evaluation renders of 3D representations in any size."""

from __future__ import annotations

import pytest
import torch

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.priors.loading import load
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.nerf import NeRF


@pytest.fixture(scope="module")
def prior():
    return load("world", "cpu")


@pytest.mark.parametrize(
    "config",
    [NeRF(samples=16), DMTet(), GaussianSplats(num_gaussians=500)],
    ids=["nerf", "dmtet", "splats"],
)
@torch.no_grad()
def test_a_larger_render_shows_the_same(config: RepresentationConfig, prior) -> None:
    representation = config.build(prior, 1, 0).eval()
    camera = turntable_cameras(1, 15.0, 3.6, 40.0)
    request = RenderRequest(torch.zeros(1).long(), camera)
    small = representation.render(request)
    large = representation.render(RenderRequest(request.particle, camera, size=(192, 192))[:1])
    for image in (large.image, large.alpha, large.depth, large.normal):
        assert image.shape[2:] == (192, 192)
    shrunk = torch.nn.functional.avg_pool2d(large.image, 3)
    assert (shrunk - small.image).abs().mean() < 0.004  # splats: .0019, mostly at the outline


@torch.no_grad()
def test_the_rim_of_a_mesh_is_as_deep_as_the_mesh(prior) -> None:
    mesh = DMTet().build(prior, 1, 0).eval()
    camera = turntable_cameras(1, 15.0, 3.6, 40.0)
    render = mesh.render(RenderRequest(torch.zeros(1).long(), camera))
    rim = (render.alpha > 0.02) & (render.alpha < 0.98)
    inside = render.depth[render.alpha >= 0.98]
    assert rim.sum() > 30
    assert inside.min() <= render.depth[rim].min() and render.depth[rim].max() < 3.6 + 1
