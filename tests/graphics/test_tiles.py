"""Tiles: alpha compositing with its gradient, and the lists of primitives."""

from __future__ import annotations

import torch
from tiny_pipeline import max_difference, normal, rng

from limbeck.graphics.rendering.tiles import AlphaComposite, TileGrid


def test_alpha_compositing_is_front_to_back_and_has_its_gradient():
    alpha = normal(3, 5, 4).sigmoid().requires_grad_()
    values = normal(3, 5, 2, seed=1).requires_grad_()
    color, transmittance = AlphaComposite.apply(alpha, values)
    expected, light = (torch.zeros(3, 4, 2).double(), torch.ones(3, 4).double())
    for k in range(5):
        expected = expected + (alpha[:, k] * light)[..., None] * values[:, k, None]
        light = light * (1 - alpha[:, k])
    assert max_difference(color, expected) < 1e-12 and max_difference(transmittance, light) < 1e-12
    assert torch.autograd.gradcheck(AlphaComposite.apply, (alpha, values))


def test_batches_list_every_primitive_of_every_tile_once_and_in_order():
    generator = rng(0)
    grid = TileGrid(2, 30, 45)
    center = torch.rand(200, 2, generator=generator) * 70 - 10
    extent = 12 * torch.rand(200, 2, generator=generator)
    image = torch.arange(2).repeat_interleave(100)
    batches = grid.make_batches(image, center - extent, center + extent, max_elements=1 << 14)
    assert len(batches) > 2
    tiles = torch.cat([batch.tile for batch in batches])
    assert sorted(tiles.tolist()) == list(range(2 * 4 * 6))
    for batch in batches:
        rows = zip(batch.tile.tolist(), batch.primitive, batch.valid, strict=True)
        for tile, primitive, valid in rows:
            offset = (center - grid.tile_centers(torch.tensor(tile), center)).abs()
            overlaps = (offset <= extent + 4).all(1) & (image == tile // 24)
            assert primitive[valid].tolist() == overlaps.nonzero()[:, 0].tolist()
