"""Layers over one another, tile by tile: only the tiles a shape touches are computed, in lists padded to a common length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.geometry.indexing import gather_rows

TILE_SIZE = 8  #: of a tile, in pixels: at the sizes of brushes and Gaussians the fewest pixels are computed in vain
MAX_BATCH_ELEMENTS = 1 << 18  #: elements (tiles x shapes x pixels) of a group, about what a core's cache holds


class AlphaComposite(torch.autograd.Function):
    """Layers front to back: sum_k c_k a_k T_k and T_K, with T_k = prod_{j < k} (1 - a_j). a stays below 1.

    Written out because autograd through a product along k would divide, and keep three more tensors of this size.
    """

    @staticmethod
    def forward(
        ctx, a: Float[Tensor, "t k p"], c: Float[Tensor, "t k c"]
    ) -> tuple[Float[Tensor, "t p c"], Float[Tensor, "t p"]]:
        after = (1 - a).cumprod(1)
        through = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
        ctx.save_for_backward(a, c, through)
        return (a * through).transpose(1, 2) @ c, after[:, -1]

    @staticmethod
    def backward(ctx, out: Float[Tensor, "t p c"], left: Float[Tensor, "t p"]):
        a, c, through = ctx.saved_tensors
        share = a * through
        seen = c @ out.transpose(1, 2)  # what a unit of each layer's share is worth
        worth = share * seen
        total = worth.sum(1, keepdim=True) + (left * (through[:, -1] * (1 - a[:, -1])))[:, None]
        behind = total - worth.cumsum(1)
        return through * seen - behind / (1 - a), share @ out


@dataclass(frozen=True)
class TileBatch:
    """Tiles with about as many shapes each: their numbers, and the shapes over each of them, front first, padded."""

    tile: Int[Tensor, "t"]
    shape: Int[Tensor, "t k"]
    real: Bool[Tensor, "t k"]


@dataclass(frozen=True)
class TileGrid:
    """A batch of images of a height and width, cut into tiles. The pixel of row i, column j is sampled at (j + .5, i + .5)."""

    images: int
    height: int
    width: int

    @property
    def down(self) -> int:
        return -(-self.height // TILE_SIZE)

    @property
    def across(self) -> int:
        return -(-self.width // TILE_SIZE)

    @cached_property
    def pixels(self) -> Float[Tensor, "p 2"]:
        """Centres of a tile's pixels from the tile's centre, x then y."""
        line = torch.arange(TILE_SIZE, dtype=torch.float64) - (TILE_SIZE - 1) / 2
        y, x = torch.meshgrid(line, line, indexing="ij")
        return torch.stack([x, y], -1).reshape(-1, 2)

    def centres(self, tile: Int[Tensor, "*n"], like: Tensor) -> Float[Tensor, "*n 2"]:
        """Centre of each tile in pixels, x then y."""
        place = tile % (self.down * self.across)
        return (
            torch.stack([place % self.across, place // self.across], -1).to(like) * TILE_SIZE + TILE_SIZE / 2
        )

    def _pairs(
        self, image: Int[Tensor, "m"], low: Float[Tensor, "m 2"], high: Float[Tensor, "m 2"]
    ) -> tuple[Tensor, Tensor]:
        """Every (shape, tile) whose boxes meet, shape by shape."""
        ends = torch.tensor([self.across, self.down], device=low.device)
        first = (low / TILE_SIZE).floor().long().clamp_min(0)
        last = torch.minimum((high / TILE_SIZE).floor().long(), ends - 1)
        wide, tall = (last - first + 1).clamp_min(0).unbind(-1)
        count = wide * tall
        shape = torch.arange(len(low), device=low.device).repeat_interleave(count)
        k = torch.arange(len(shape), device=low.device) - (count.cumsum(0) - count)[shape]
        x, y = first[shape, 0] + k % wide[shape], first[shape, 1] + k // wide[shape]
        return shape, (image[shape] * self.down + y) * self.across + x

    def groups(
        self,
        image: Int[Tensor, "m"],
        low: Float[Tensor, "m 2"],
        high: Float[Tensor, "m 2"],
        keep: Callable[[Tensor, Tensor], Tensor] | None = None,
        most: int = MAX_BATCH_ELEMENTS,
    ) -> list[TileBatch]:
        """All tiles, those with the longest lists first; shapes keep their order. Reads the lengths back from the device.

        image: the image of each shape. low, high: its box in pixels, x then y. keep: of (shape, tile) pairs, which are wanted.
        most: elements of a group.
        """
        shape, tile = self._pairs(image, low, high)
        if keep is not None:
            wanted = keep(shape, tile)
            shape, tile = shape[wanted], tile[wanted]
        tile, order = tile.sort(stable=True)
        shape = shape[order]
        lengths = torch.bincount(tile, minlength=self.images * self.down * self.across)
        start = lengths.cumsum(0) - lengths
        by_length = lengths.argsort(descending=True)
        out: list[TileBatch] = []
        known = lengths[by_length].tolist()
        for a, b in _cuts(known, most):
            chosen = by_length[a:b]
            k = torch.arange(max(known[a], 1), device=low.device)
            real = k < lengths[chosen, None]
            place = (start[chosen, None] + k).clamp_max(max(len(shape) - 1, 0))
            listed = shape[place] if len(shape) else torch.zeros_like(place)
            out.append(TileBatch(chosen, listed, real))
        return out

    def assemble(
        self, groups: list[TileBatch], shown: list[Float[Tensor, "t p c"]]
    ) -> Float[Tensor, "b c h w"]:
        """The images, of what each group's tiles show."""
        back = torch.cat([group.tile for group in groups]).argsort()
        flat = gather_rows(torch.cat(shown), back).reshape(
            self.images, self.down, self.across, TILE_SIZE, TILE_SIZE, -1
        )
        whole = flat.permute(0, 5, 1, 3, 2, 4).reshape(
            self.images, -1, self.down * TILE_SIZE, self.across * TILE_SIZE
        )
        return whole[..., : self.height, : self.width]


def _cuts(lengths: list[int], most: int) -> list[tuple[int, int]]:
    """Where to cut a falling list of lengths so that a group is small and wastes little on padding."""
    cuts, a = [], 0
    for b in range(1, len(lengths) + 1):
        longest = max(lengths[a], 1)
        full = (b - a + 1) * longest * TILE_SIZE * TILE_SIZE > most
        if b == len(lengths) or full or (lengths[b] < 0.7 * longest and (b - a) * longest >= 256):
            cuts.append((a, b))
            a = b
    return cuts
