"""The held-out cameras and textureless renders."""

import math

import pytest
import torch
from ball_representation import Ball

from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.metrics.heldout_views import (
    CAMERA_RINGS,
    R_PRECISION_VIEWS,
    held_out_cameras,
    render_held_out,
    render_textureless,
)
from limbeck.priors.exact import colored_shapes

DEGREE = math.pi / 180


def test_there_are_32_cameras_on_three_rings():
    camera = held_out_cameras(3.6, 40.0)
    assert len(camera) == 32
    assert torch.equal(camera.pose, held_out_cameras(3.6, 40.0).pose)
    assert torch.allclose(camera.distance, torch.full((32,), 3.6))
    assert torch.allclose(camera.fov, torch.full((32,), 40 * DEGREE))
    assert torch.allclose(camera[R_PRECISION_VIEWS].elevation, torch.full((16,), 30 * DEGREE))
    elevations = torch.cat([torch.full((count,), e) for e, count, _ in CAMERA_RINGS])
    assert torch.allclose(camera.elevation / DEGREE, elevations, atol=1e-3)


@pytest.mark.parametrize("border", [45, 135])
def test_no_camera_is_on_the_border_of_two_views(border):
    azimuth = held_out_cameras(3.6, 40.0).azimuth.abs() / DEGREE
    assert (azimuth - border).abs().min() > 5


def test_textureless_renders_are_lambertian_with_a_light_at_the_camera():
    camera = orbit_cameras(torch.tensor([0.7]), torch.tensor([0.3]), 3.6, 40.0)
    rotation = camera.pose[0, :3, :3]
    light = torch.nn.functional.normalize(rotation @ torch.tensor([-0.45, 0.75, 0.55]), dim=0)
    orthogonal = torch.linalg.cross(light, torch.tensor([0.0, 1.0, 0.0]))
    diagonal = light + orthogonal / orthogonal.norm()
    normals = torch.stack([light, -light, orthogonal, diagonal], 1).view(1, 3, 2, 2)
    opaque = torch.ones(1, 1, 2, 2)
    image = render_textureless(opaque, normals, camera)[0]
    values = [0.95, 0.95 * 0.42, 0.95 * 0.42, 0.95 * (0.42 + 0.62 / 2**0.5)]
    expected = torch.tensor(values).view(1, 2, 2).expand(3, 2, 2)
    assert torch.allclose(image, expected, atol=1e-5)
    assert torch.allclose(render_textureless(opaque, 0.3 * normals, camera)[0], image, atol=1e-6)
    sky = render_textureless(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2), camera)[0]
    assert torch.equal(sky[:, 0, 0], sky[:, 0, 1]) and (sky[2] > sky[0]).all()


def test_textureless_renders_do_not_depend_on_color():
    prior = colored_shapes(size=16)
    balls, cameras = Ball().build(prior, 2, 0), held_out_cameras(3.6, 40.0)[:4]
    a, b = (render_held_out(balls, prior, particle, cameras) for particle in (0, 1))
    assert not torch.allclose(a.images, b.images, atol=0.05)
    assert torch.equal(a.textureless, b.textureless)
