"""Surfaces at the sides of their box."""

from __future__ import annotations

import pytest
import torch
import trimesh

from limbeck.graphics.geometry.box_contact import box_contact
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid


def test_a_box_touches_the_sides_that_it_reaches() -> None:
    """Extents 1 x 2 x 0.5 around (0.5, 0, 0): it reaches x = 1 and both y, with known areas."""
    box = trimesh.creation.box(extents=(1, 2, 0.5))
    vertices = torch.tensor(box.vertices).float() + torch.tensor([0.5, 0.0, 0.0])
    contact = box_contact(vertices, torch.tensor(box.faces).long(), 1.0)
    area = 2 * (1 * 2 + 1 * 0.5 + 2 * 0.5)
    expected = {"right (+x)": 1.0 / area, "bottom (-y)": 0.5 / area, "top (+y)": 0.5 / area}
    assert contact == pytest.approx(expected, rel=1e-5)
    assert box_contact(vertices, torch.tensor(box.faces).long(), 1.2) == {}


@pytest.mark.parametrize(("radius", "touches"), [(0.85, False), (1.1, True)])
def test_a_ball_touches_its_box_where_it_is_cut_off(radius: float, touches: bool) -> None:
    grid = TetGrid(32, 1.0)
    sdf = grid.vertices().norm(dim=1) - radius
    sdf[grid.boundary_mask()] = sdf[grid.boundary_mask()].clamp_min(0.1 * grid.cell_size)
    vertices, mesh = grid.extract_surface(sdf, grid.vertices())
    contact = box_contact(vertices, mesh.faces, 1.0)
    assert len(contact) == (6 if touches else 0)
    assert all(share > 0.03 for share in contact.values())
