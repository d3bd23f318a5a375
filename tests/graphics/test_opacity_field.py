"""The surface of a density: radii of fogs, balls and shells, no hollows, and its colors."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.graphics.fields.surface import field_to_surface
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid
from limbeck.graphics.geometry.mesh import connected_components
from limbeck.graphics.geometry.opacity_field import density_to_sdf, least_optical_depth

GRID = TetGrid(48, 1.5)
RADIUS = GRID.vertices().norm(dim=1)


def extract(density):
    return GRID.extract_surface(density_to_sdf(density, GRID), GRID.vertices())


@pytest.mark.parametrize("peak", [4.0, 8.0, 40.0])
def test_a_gaussian_fog_has_its_half_opaque_silhouette(peak):
    """The optical depth of D exp(-r^2 / 2 s^2) along a line at distance b is
    D s (2 pi)^.5 exp(-b^2 / 2 s^2); it is ln 2 at the radius of the silhouette."""
    s = 0.35
    exact = s * math.sqrt(2 * math.log(peak * s * math.sqrt(2 * math.pi) / math.log(2)))
    vertices, _ = extract(peak * (-RADIUS.square() / (2 * s**2)).exp())
    radius = vertices.norm(dim=1)
    assert abs(radius.mean() - exact) < 0.05 * GRID.cell_size
    assert (radius - exact).abs().max() < 0.2 * GRID.cell_size


@pytest.mark.parametrize("density", [2.0, 50.0, 1000.0])
def test_a_ball_of_any_density_has_its_half_opaque_silhouette(density):
    """A chord of a ball at distance b is 2 (r^2 - b^2)^.5 long."""
    exact = math.sqrt(0.7**2 - (math.log(2) / density / 2) ** 2)
    radius = extract(density * (RADIUS < 0.7).float())[0].norm(dim=1)
    assert abs(radius.mean() - exact) < 0.1 * GRID.cell_size
    assert (radius - exact).abs().max() < 0.5 * GRID.cell_size


def test_what_no_view_shows_is_inside():
    """An opaque shell is a solid ball: one component, with the volume of the ball."""
    vertices, mesh = extract(50 * ((RADIUS < 0.7) & (RADIUS > 0.5)).float())
    assert len(connected_components(mesh)[mesh.faces[:, 0]].unique()) == 1
    a, b, c = vertices[mesh.faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    assert abs(volume / (4 / 3 * math.pi * 0.7**3) - 1) < 0.03
    assert (vertices.norm(dim=1) > 0.65).all()


def test_a_dip_of_the_density_that_no_view_shows_is_no_hole():
    """Behind a weak spot of the skin the fog is as opaque as elsewhere; a level set of the
    density has a pit there."""
    fog = 12 * (RADIUS < 0.9).float()
    weak = GRID.vertices()[:, 2] > 0.78
    density = torch.where(weak, 0.25 * fog, fog)
    density[RADIUS < 0.6] = 0
    vertices, _ = extract(density)
    assert (vertices.norm(dim=1) > 0.7).all()


def test_a_view_into_a_cavity_keeps_it_open():
    points = GRID.vertices()
    channel = (points[:, 1] > -0.3) & (points[:, [0, 2]].norm(dim=1) < 0.4)
    vertices, _ = extract(50 * ((RADIUS < 0.7) & ~channel).float())
    assert vertices.norm(dim=1).min() < 0.35


def test_the_least_optical_depth_of_a_slab_is_that_of_its_normal():
    inside = GRID.vertices()[:, 1].abs() <= 0.5
    depth = least_optical_depth(3 * inside.float(), GRID, num_directions=400)
    n = GRID.vertices_per_side
    column = depth.view(n, n, n)[n // 2, :, n // 2]
    height = torch.linspace(-1.5, 1.5, n)
    exact = 3 * (0.5 - height.abs()).clamp_min(0)
    assert (column - exact).abs().max() < 3 * GRID.cell_size


def test_fog_that_is_nowhere_half_opaque_has_no_surface():
    with pytest.raises(ValueError, match="nowhere half opaque"):
        density_to_sdf(0.1 * (RADIUS < 0.7).float(), GRID)


def test_the_color_of_a_fog_is_what_a_frontal_view_shows():
    """A red fog of opacity 1 - exp(-2 .3) around a blue ball, looked at against the normal."""

    def query(points):
        r = points.norm(dim=1)
        density = torch.where(r < 0.5, 60.0, torch.where(r < 0.8, 2.0, 0.0))
        red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
        return density, torch.where((r < 0.5)[:, None], blue, red)

    surface = field_to_surface(query, 1.5, torch.device("cpu"), resolution=64)
    # the fog alone is half opaque along lines up to this distance from the center
    exact = math.sqrt(0.8**2 - (math.log(2) / 2 / 2) ** 2)
    assert abs(surface.vertices.norm(dim=1).mean() - exact) < 0.02
    color = surface.color(surface.vertices)
    # of the rays that start at the surface, this part of the fog is still ahead
    share = 1 - math.exp(-2 * (exact - 0.5))
    assert (color.mean(0) - torch.tensor([share, 0, 1 - share])).abs().max() < 0.06
