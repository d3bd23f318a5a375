"""Tile-based alpha compositing: each tile of an image lists the primitives that touch it.

Tiles with lists of similar length are padded to a common length and computed as one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.geometry.indexing import gather_rows

#: Side of a tile in pixels; 8 wastes the fewest pixels at the usual sizes of strokes and Gaussians.
TILE_SIZE = 8
#: Elements (tiles x primitives x pixels) of a batch: about what the cache of a core holds.
MAX_BATCH_ELEMENTS = 1 << 18


class AlphaComposite(torch.autograd.Function):
    """Front-to-back compositing: sum_k c_k a_k T_k and T_K, with T_k = prod_{j < k} (1 - a_j).

    Alphas must be below 1. The backward pass is written by hand, because autograd through a product
    along k would divide and would keep three more tensors of this size.
    """

    @staticmethod
    def forward(
        ctx, a: Float[Tensor, "t k p"], c: Float[Tensor, "t k c"]
    ) -> tuple[Float[Tensor, "t p c"], Float[Tensor, "t p"]]:
        after = (1 - a).cumprod(1)
        transmittance = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
        ctx.save_for_backward(a, c, transmittance)
        return (a * transmittance).transpose(1, 2) @ c, after[:, -1]

    @staticmethod
    def backward(ctx, grad_color: Float[Tensor, "t p c"], grad_last: Float[Tensor, "t p"]):
        a, c, transmittance = ctx.saved_tensors
        weight = a * transmittance
        grad_weight = c @ grad_color.transpose(1, 2)
        weighted = weight * grad_weight
        last = transmittance[:, -1] * (1 - a[:, -1])
        total = weighted.sum(1, keepdim=True) + (grad_last * last)[:, None]
        behind = total - weighted.cumsum(1)
        grad_a = transmittance * grad_weight - behind / (1 - a)
        return grad_a, weight @ grad_color


@dataclass(frozen=True)
class TileBatch:
    """Tiles with about equally many primitives, padded to a common number.

    Attributes:
        tile: ``[T]`` indices of the tiles.
        primitive: ``[T, K]`` primitives over each tile, front first.
        valid: ``[T, K]`` False for padding.
    """

    tile: Int[Tensor, "t"]
    primitive: Int[Tensor, "t k"]
    valid: Bool[Tensor, "t k"]


@dataclass(frozen=True)
class TileGrid:
    """A batch of images cut into tiles; pixel (row i, column j) is sampled at (j + .5, i + .5).

    Attributes:
        num_images: number of images.
        height: image height in pixels.
        width: image width in pixels.
    """

    num_images: int
    height: int
    width: int

    @property
    def num_rows(self) -> int:
        """Rows of tiles in an image."""
        return -(-self.height // TILE_SIZE)

    @property
    def num_columns(self) -> int:
        """Columns of tiles in an image."""
        return -(-self.width // TILE_SIZE)

    @cached_property
    def pixel_offsets(self) -> Float[Tensor, "p 2"]:
        """Pixel centers of a tile relative to the tile's center, x then y."""
        line = torch.arange(TILE_SIZE, dtype=torch.float64) - (TILE_SIZE - 1) / 2
        y, x = torch.meshgrid(line, line, indexing="ij")
        return torch.stack([x, y], -1).reshape(-1, 2)

    def tile_centers(self, tile: Int[Tensor, "*n"], like: Tensor) -> Float[Tensor, "*n 2"]:
        """Centers of tiles in pixels, x then y, with the dtype and device of ``like``."""
        index = tile % (self.num_rows * self.num_columns)
        column_row = torch.stack([index % self.num_columns, index // self.num_columns], -1)
        return column_row.to(like) * TILE_SIZE + TILE_SIZE / 2

    def _overlaps(
        self, image: Int[Tensor, "m"], low: Float[Tensor, "m 2"], high: Float[Tensor, "m 2"]
    ) -> tuple[Tensor, Tensor]:
        """Every (primitive, tile) pair whose boxes overlap, ordered by primitive."""
        limit = torch.tensor([self.num_columns, self.num_rows], device=low.device)
        first = (low / TILE_SIZE).floor().long().clamp_min(0)
        last = torch.minimum((high / TILE_SIZE).floor().long(), limit - 1)
        columns, rows = (last - first + 1).clamp_min(0).unbind(-1)
        count = columns * rows
        primitive = torch.arange(len(low), device=low.device).repeat_interleave(count)
        start = count.cumsum(0) - count
        k = torch.arange(len(primitive), device=low.device) - start[primitive]
        x = first[primitive, 0] + k % columns[primitive]
        y = first[primitive, 1] + k // columns[primitive]
        return primitive, (image[primitive] * self.num_rows + y) * self.num_columns + x

    def make_batches(
        self,
        image: Int[Tensor, "m"],
        low: Float[Tensor, "m 2"],
        high: Float[Tensor, "m 2"],
        keep: Callable[[Tensor, Tensor], Tensor] | None = None,
        max_elements: int = MAX_BATCH_ELEMENTS,
    ) -> list[TileBatch]:
        """Batch all tiles, those with the longest lists first; primitives keep their order.

        Reads the lengths of the lists back from the device.

        Args:
            image: image index of each primitive.
            low: lowest corner of each primitive's box in pixels, x then y.
            high: highest corner of the box.
            keep: function from primitive and tile indices of the overlapping pairs to a mask of
                the pairs to keep. None: all.
            max_elements: elements (tiles x primitives x pixels) of a batch.
        """
        primitive, tile = self._overlaps(image, low, high)
        if keep is not None:
            mask = keep(primitive, tile)
            primitive, tile = primitive[mask], tile[mask]
        tile, order = tile.sort(stable=True)
        primitive = primitive[order]
        num_tiles = self.num_images * self.num_rows * self.num_columns
        lengths = torch.bincount(tile, minlength=num_tiles)
        start = lengths.cumsum(0) - lengths
        by_length = lengths.argsort(descending=True)
        sorted_lengths = lengths[by_length].tolist()
        batches: list[TileBatch] = []
        for a, b in _split_by_length(sorted_lengths, max_elements):
            tiles = by_length[a:b]
            k = torch.arange(max(sorted_lengths[a], 1), device=low.device)
            valid = k < lengths[tiles, None]
            index = (start[tiles, None] + k).clamp_max(max(len(primitive) - 1, 0))
            padded = primitive[index] if len(primitive) else torch.zeros_like(index)
            batches.append(TileBatch(tiles, padded, valid))
        return batches

    def assemble(
        self, batches: list[TileBatch], tiles: list[Float[Tensor, "t p c"]]
    ) -> Float[Tensor, "b c h w"]:
        """Assemble images from the pixels of each batch's tiles."""
        rows, columns = self.num_rows, self.num_columns
        order = torch.cat([batch.tile for batch in batches]).argsort()
        pixels = gather_rows(torch.cat(tiles), order)
        pixels = pixels.reshape(self.num_images, rows, columns, TILE_SIZE, TILE_SIZE, -1)
        images = pixels.permute(0, 5, 1, 3, 2, 4)
        images = images.reshape(self.num_images, -1, rows * TILE_SIZE, columns * TILE_SIZE)
        return images[..., : self.height, : self.width]


def _split_by_length(lengths: list[int], max_elements: int) -> list[tuple[int, int]]:
    """Split a descending list of lengths into ranges with few elements and little padding."""
    ranges, a = [], 0
    for b in range(1, len(lengths) + 1):
        longest = max(lengths[a], 1)
        full = (b - a + 1) * longest * TILE_SIZE * TILE_SIZE > max_elements
        padded = b < len(lengths) and lengths[b] < 0.7 * longest and (b - a) * longest >= 256
        if b == len(lengths) or full or padded:
            ranges.append((a, b))
            a = b
    return ranges
