"""Dense multi-resolution feature grids with trilinear interpolation; by far the fastest on a CPU.

@inproceedings{sun2022dvgo,
  title={Direct Voxel Grid Optimization: Super-fast Convergence for Radiance Fields
    Reconstruction},
  author={Sun, Cheng and Sun, Min and Chen, Hwann-Tzong}, booktitle={CVPR}, year={2022}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from limbeck.graphics.fields.encodings.base import (
    Encoding,
    EncodingModule,
    check_grid_options,
    mean_squared_difference,
)

_CHUNK_SIZE = 1 << 14  #: points per call of the look-up, so that its intermediates stay in cache


class DenseGridModule(EncodingModule):
    """Grids ``levels[l]`` of shape ``[n, n, n, f]`` over z, y, x.

    Features come last so that one cache line holds all features of a grid point, both when they
    are read and when their gradients are added.
    """

    def __init__(self, spec: DenseGridEncoding, generator: torch.Generator):
        super().__init__()
        self.spec = spec
        size = spec.features_per_level
        values = (torch.randn(n, n, n, size, generator=generator) for n in spec.resolutions)
        self.levels = nn.ParameterList(nn.Parameter(spec.init_std * value) for value in values)
        self.num_features = size * (len(spec.resolutions) if spec.level_reduce == "concat" else 1)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        """Interpolate every level trilinearly (DVGO, section 4).

        The outermost grid points lie on the faces of the box.
        """
        trained = torch.is_grad_enabled() and not points.requires_grad
        if trained and points.device.type == "cpu":
            unit = ((points.t().contiguous() + 1) / 2).clamp_(0, 1)
            features = [_TrilinearLookup.apply(level, unit) for level in self.levels]
        else:
            features = [_grid_sample(level, points) for level in self.levels]
        if self.spec.level_reduce == "concat":
            return torch.cat(features, 1)
        return sum(features[1:], features[0])

    def total_variation(self) -> Float[Tensor, ""]:
        """Mean squared difference of neighbors, summed over levels and axes."""
        terms = [mean_squared_difference(level, (0, 1, 2)) for level in self.levels]
        return torch.stack(terms).sum()


def _grid_sample(
    level: Float[Tensor, "n n n f"], points: Float[Tensor, "m 3"]
) -> Float[Tensor, "m f"]:
    """Features at points in [-1, 1]^3 by torch's kernel."""
    grid, table = points[None, :, None, None], level.permute(3, 0, 1, 2)[None]
    features = F.grid_sample(table, grid, align_corners=True, padding_mode="border")
    return features.view(level.shape[3], -1).t()  # points may be none, features never


class _TrilinearLookup(torch.autograd.Function):
    """Features at points in [0, 1]^3, coordinates first, with a gradient for the grid only.

    On a CPU faster than torch's kernel, which works on one number at a time: the corners are
    gathered and added up by an embedding bag, and their gradients by histograms.
    """

    @staticmethod
    def forward(
        ctx: Any, level: Float[Tensor, "n n n f"], unit: Float[Tensor, "3 m"]
    ) -> Float[Tensor, "m f"]:
        side, table, count = len(level), level.flatten(0, 2), unit.shape[1]
        first = torch.empty(count, dtype=torch.int32)
        weight, features = unit.new_empty(8, count), level.new_empty(count, level.shape[3])
        offset = _corner_offsets(side)
        for start in range(0, count, _CHUNK_SIZE):
            part = slice(start, start + _CHUNK_SIZE)
            first[part], fraction = _lowest_corner(side, unit[:, part])
            _corner_weights(fraction, weight[:, part])
            features[part] = F.embedding_bag(
                first[part, None] + offset,
                table,
                per_sample_weights=weight[:, part].t().contiguous(),
                mode="sum",
            )
        ctx.save_for_backward(first, weight)
        ctx.shape = level.shape
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "m f"]) -> tuple[Tensor, None]:
        first, weight = ctx.saved_tensors
        side = ctx.shape[0]
        index = (first + _corner_offsets(side)[:, None]).flatten()
        product, sums = torch.empty_like(weight), []
        for column in grad.t().contiguous():
            torch.mul(weight, column, out=product)
            sums.append(torch.bincount(index, product.view(-1), side**3))
        return torch.stack(sums, 1).view(ctx.shape), None


def _corner_offsets(side: int) -> Int[Tensor, "8"]:
    """Rows of the eight corners of a cell after that of the lowest, z slowest and x fastest."""
    line = torch.arange(2, dtype=torch.int32)
    return ((line[:, None, None] * side + line[:, None]) * side + line).flatten()


def _lowest_corner(
    side: int, unit: Float[Tensor, "3 m"]
) -> tuple[Int[Tensor, "m"], Float[Tensor, "3 m"]]:
    """Row of the lowest corner of the cell of each point, and the position within the cell."""
    position = unit * (side - 1)
    corner = position.floor().clamp_max_(side - 2)
    x, y, z = corner.int()
    return (z * side).add_(y).mul_(side).add_(x), position.sub_(corner)


def _corner_weights(fraction: Float[Tensor, "3 m"], out: Float[Tensor, "8 m"]) -> None:
    """Trilinear weights of the corners of cells, z slowest and x fastest, into ``out``."""
    x, y, z = fraction
    weight = out.view(2, 2, 2, -1)
    torch.mul(z, y, out=weight[1, 1, 0])
    torch.sub(z, weight[1, 1, 0], out=weight[1, 0, 0])
    torch.sub(y, weight[1, 1, 0], out=weight[0, 1, 0])
    torch.sub(1 - z, weight[0, 1, 0], out=weight[0, 0, 0])
    torch.mul(weight[:, :, 0], x, out=weight[:, :, 1])
    weight[:, :, 0] -= weight[:, :, 1]


@dataclass(frozen=True)
class DenseGridEncoding(Encoding):
    """Dense feature grids over the box, from coarse to fine.

    Attributes:
        resolutions: grid points along a side, per level.
        features_per_level: features of a grid point.
        level_reduce: add the features of the levels ("sum"), or concatenate them ("concat"), which
            needs a decoder with weights.
        init_std: standard deviation of the initial features.
        lr_scale: learning rate of the encoding's parameters, relative to the field's.
    """

    resolutions: tuple[int, ...] = (16, 32, 64)
    features_per_level: int = 4
    level_reduce: Literal["sum", "concat"] = "sum"
    init_std: float = 0.01

    def __post_init__(self) -> None:
        check_grid_options(self.resolutions, self.features_per_level, self.init_std)
        if self.level_reduce not in ("sum", "concat"):
            raise ValueError(f"level_reduce must be one of sum, concat, not {self.level_reduce!r}")

    def build(self, generator: torch.Generator) -> DenseGridModule:
        return DenseGridModule(self, generator)
