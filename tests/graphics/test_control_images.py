"""Depths and normals as the images of ControlNets, against rays and known surfaces."""

import torch

from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.rendering.control_images import depth_image, normal_image


def cameras(azimuth, elevation=0.0, distance=3.0):
    angles = torch.tensor([azimuth, elevation]).deg2rad()
    return orbit_cameras(angles[:1], angles[1:], torch.tensor([distance]), 40.0)


def ball(camera, size=32, radius=1.0):
    """Depth, opacity and world normals of a ball around the origin, by rays in closed form."""
    directions = camera.directions(size, size).double()
    eye = camera.eye.double()[:, None, None]
    b = (directions * eye).sum(-1)
    inside = b.square() - (eye.square().sum(-1) - radius**2)
    distance = -b - inside.clamp_min(0).sqrt()
    hit = inside > 0
    normal = (eye + distance[..., None] * directions) / radius
    cosine = -(directions * camera.pose[:, None, None, :3, 2].double()).sum(-1)
    depth = torch.where(hit, distance * cosine, 0.0)[:, None].float()
    normal = torch.where(hit[..., None], normal, 0.0).permute(0, 3, 1, 2).float()
    return depth, hit[:, None].float(), normal


def test_depth_is_disparity_from_black_background_to_the_white_nearest_point():
    camera = cameras(30.0, 20.0)
    depth, alpha, _ = ball(camera)
    image = depth_image(depth, alpha)
    assert image.shape == (1, 3, 32, 32) and torch.equal(image[:, 0], image[:, 2])
    gray, hit = image[0, 0], alpha[0, 0] > 0
    assert float(gray[~hit].abs().max()) == 0 and float(gray.max()) == 1
    assert abs(float(gray[hit].min()) - 0.2) < 1e-6
    nearest = depth[0, 0].where(hit, torch.inf).argmin()
    assert float(gray.flatten()[nearest]) == 1
    # linear in 1 / depth: two points tell the third
    values, disparity = gray[hit].double(), 1 / depth[0, 0][hit].double()
    slope = 0.8 / (disparity.max() - disparity.min())
    expected = 0.2 + slope * (disparity - disparity.min())
    assert float((values - expected).abs().max()) < 1e-5


def test_depth_is_normalized_for_each_image():
    depths, alphas = zip(*(ball(cameras(0.0, distance=d))[:2] for d in (2.5, 5.0)), strict=True)
    together = depth_image(torch.cat(depths), torch.cat(alphas))
    alone = [depth_image(d, a) for d, a in zip(depths, alphas, strict=True)]
    assert torch.equal(together, torch.cat(alone))


def test_a_flat_object_is_white_and_an_empty_render_black():
    depth, alpha = torch.full((2, 1, 4, 4), 2.0), torch.zeros(2, 1, 4, 4)
    alpha[0, 0, 1:3] = 1
    image = depth_image(depth, alpha)
    assert torch.equal(image[0, 0], alpha[0, 0]) and float(image[1].abs().max()) == 0
    assert bool(image.isfinite().all())


def test_normals_are_red_to_the_left_green_upwards_and_blue_to_the_camera():
    """From any side: the colors belong to the camera, not to the world."""
    for azimuth, elevation in ((0.0, 0.0), (90.0, 0.0), (200.0, 50.0)):
        camera = cameras(azimuth, elevation)
        _, alpha, normal = ball(camera)
        red, green, blue = normal_image(normal, alpha, camera)[0]
        row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        hit = alpha[0, 0] > 0
        assert float(blue[15:17, 15:17].min()) > 0.99
        for channel, place in ((red, -column), (green, -row)):
            found = torch.corrcoef(torch.stack([channel[hit], place[hit]]))[0, 1]
            assert float(found) > 0.99, (azimuth, elevation)
        background = torch.stack([red, green, blue])[:, ~hit]
        assert torch.equal(background, torch.tensor([[0.5], [0.5], [1.0]]).expand_as(background))


def test_normals_of_a_tilted_plane():
    """A wall that faces 45 degrees to the left of the camera."""
    camera = cameras(0.0)
    normal = torch.tensor([-(0.5**0.5), 0.0, 0.5**0.5]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    image = normal_image(normal, torch.ones(1, 1, 2, 2), camera)[0, :, 0, 0]
    expected = torch.tensor([1 + 0.5**0.5, 1.0, 1 + 0.5**0.5]) / 2
    assert float((image - expected).abs().max()) < 1e-6
