"""Pieces, handles and cut sides of surfaces of known topology."""

import pytest
import torch

from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid
from limbeck.graphics.geometry.shape_facts import shape_facts

GRID = TetGrid(24, 1.0)
POINTS = GRID.vertices().double()


def ball(center, radius):
    return (POINTS - torch.tensor(center, dtype=torch.float64)).norm(dim=1) - radius


def ring(radius=0.6, thickness=0.2):
    flat = POINTS[:, [0, 2]].norm(dim=1) - radius
    return (flat.square() + POINTS[:, 1].square()).sqrt() - thickness


def surface(distance):
    vertices, mesh = GRID.extract_surface(distance, POINTS)
    return Surface(vertices, mesh.faces, lambda points: points)


@pytest.mark.parametrize(
    ("distance", "pieces", "handles"),
    [
        (ball((0, 0, 0), 0.6), 1, 0),
        (ring(), 1, 1),
        (ring().minimum(ball((0, 0, 0), 0.25)), 2, 1),
        (ring().minimum((POINTS[:, :2].norm(dim=1) - 0.1).maximum(POINTS[:, 2].abs() - 0.6)), 1, 2),
    ],
    ids=["ball", "ring", "ball in a ring", "ring with a bar"],
)
def test_pieces_and_handles(distance, pieces, handles):
    facts = shape_facts(surface(distance), None)
    assert (facts.pieces, facts.handles, facts.box_contact) == (pieces, handles, 0)


def test_specks_are_no_pieces_and_an_open_surface_has_no_genus():
    whole = surface(ball((0, 0, 0), 0.6))
    speck = torch.tensor([[0.9, 0.9, 0.9], [0.91, 0.9, 0.9], [0.9, 0.91, 0.9]]).double()
    faces = torch.cat([whole.faces, torch.tensor([[0, 1, 2]]) + len(whole.vertices)])
    speckled = Surface(torch.cat([whole.vertices, speck]), faces, whole.color)
    assert shape_facts(speckled, None).pieces == 1
    assert shape_facts(speckled, None).handles == 0
    assert shape_facts(Surface(whole.vertices, whole.faces[1:], whole.color), None).handles is None


def test_the_share_at_the_sides_of_the_box():
    cut = surface(ball((0, 0.2, 0), 0.55).maximum(POINTS[:, 1] - 0.6))
    assert shape_facts(cut, 2.0).box_contact == 0
    # a cap of height .15 is cut off: its disc beside the rest of the sphere, 2 pi r (2 r - .15)
    disc, rest = 0.55**2 - 0.4**2, 2 * 0.55 * 0.95
    assert shape_facts(cut, 0.6).box_contact == pytest.approx(disc / (disc + rest), abs=0.02)
