"""The surface of splats is where they show one, closed, solid, and of their colors."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
import trimesh
from painted_ball import RADIUS, fine_cloud, paint

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.export.mesh_cleanup import is_closed_surface, query_colors
from limbeck.graphics.export.splat_surface import splats_to_surface
from limbeck.graphics.geometry.assets import Splats, Surface
from limbeck.graphics.geometry.mesh import MeshTopology, connected_components
from limbeck.graphics.rendering.gaussian_projection import GaussianBatch, render_gaussians

RESOLUTION = 32
CELL = 2 * 0.92 / RESOLUTION  #: the splats reach .92 from the origin


def join(*parts: Splats) -> Splats:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Splats(*(torch.cat(column) for column in columns))


def single(opacity: float, scale: float = 0.2) -> Splats:
    return Splats(
        torch.zeros(1, 3),
        torch.full((1, 3), scale),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.tensor([opacity]),
        torch.tensor([[0.9, 0.2, 0.1]]),
    )


@cache
def ball_surface() -> Surface:
    return splats_to_surface(fine_cloud(), RESOLUTION)


def outline_radius() -> float:
    """Radius of the ball whose outline is that of the half-opaque pixels: splats have a width."""
    size, distance, fov = 256, 3.6, 40.0
    gaussians = GaussianBatch(*(column[None] for column in vars(fine_cloud()).values()))
    camera = turntable_cameras(1, 20.0, distance, fov)
    alpha = render_gaussians(gaussians, camera, size, size).alpha
    in_pixels = math.sqrt(float((alpha > 0.5).sum()) / math.pi)
    focal = size / 2 / math.tan(math.radians(fov / 2))
    return distance * math.sin(math.atan(in_pixels / focal))


def volume(surface: Surface) -> float:
    return trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False).volume


def test_splats_on_a_sphere_give_the_sphere():
    surface = ball_surface()
    radius = surface.vertices.norm(dim=1)
    assert abs(float(radius.mean()) - RADIUS) < 0.5 * CELL
    assert float((radius - RADIUS).abs().quantile(0.99)) < 1.5 * CELL
    assert is_closed_surface(surface.vertices, surface.faces)


def test_the_surface_has_the_colors_of_the_splats():
    vertices = ball_surface().vertices
    error = (query_colors(ball_surface(), vertices) - paint(vertices, 0.0)).abs()
    assert float(error.mean()) < 0.02 and float(error.quantile(0.99)) < 0.1


def test_what_no_camera_sees_is_inside():
    """Splats are a shell: its inner side is no surface, and neither are splats inside."""
    surface = ball_surface()
    mesh = MeshTopology(surface.faces, len(surface.vertices))
    sizes = connected_components(mesh).unique(return_counts=True)[1]
    assert float(sizes.max()) > 0.98 * len(surface.vertices)
    assert volume(surface) == pytest.approx(4 / 3 * math.pi * outline_radius() ** 3, rel=0.04)
    filled = splats_to_surface(join(fine_cloud(), single(0.95)), RESOLUTION)
    assert volume(filled) == pytest.approx(volume(surface), rel=0.01)


def test_gaps_between_splats_are_no_tunnels():
    """One splat in twenty is missing: a tunnel through the ball would cost volume."""
    keep = torch.arange(2500) % 20 > 0
    splats = Splats(*(column[keep] for column in vars(fine_cloud()).values()))
    assert volume(splats_to_surface(splats, RESOLUTION)) == pytest.approx(
        volume(ball_surface()), rel=0.03
    )


def test_two_objects_stay_apart_and_keep_their_place():
    left, right = (
        replace(fine_cloud(), means=0.4 * fine_cloud().means + torch.tensor([x, 0.0, 0.0]))
        for x in (-0.6, 0.6)
    )
    surface = splats_to_surface(join(left, right), RESOLUTION)
    x = surface.vertices[:, 0]
    assert float(x.abs().min()) > 0.1
    assert float(x.amax()) == pytest.approx(0.6 + 0.4 * RADIUS, abs=0.1)
    low = surface.vertices[x < 0]
    assert float(low.mean(0).sub(torch.tensor([-0.6, 0.0, 0.0])).abs().max()) < 0.03


def test_nothing_opaque_is_refused():
    with pytest.raises(ValueError, match="nowhere opaque"):
        splats_to_surface(single(0.3), RESOLUTION)
    empty = Splats(*(torch.zeros(0, *shape) for shape in ((3,), (3,), (4,), (), (3,))))
    with pytest.raises(ValueError, match="no Gaussians"):
        splats_to_surface(empty, RESOLUTION)
