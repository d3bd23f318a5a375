"""Dense multi-resolution feature grids with trilinear interpolation; by far the fastest on a CPU.

@inproceedings{sun2022dvgo,
  title={Direct Voxel Grid Optimization: Super-fast Convergence for Radiance Fields
    Reconstruction},
  author={Sun, Cheng and Sun, Min and Chen, Hwann-Tzong}, booktitle={CVPR}, year={2022}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule, check_grid_options


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
        grid = points[None, :, None, None]
        features = [
            F.grid_sample(
                level.permute(3, 0, 1, 2)[None], grid, align_corners=True, padding_mode="border"
            ).view(-1, len(points))
            for level in self.levels
        ]
        if self.spec.level_reduce == "concat":
            return torch.cat(features).t()
        return (torch.stack(features).sum(0) if len(features) > 1 else features[0]).t()

    def total_variation(self) -> Float[Tensor, ""]:
        """Mean squared difference of neighbors, summed over levels and axes."""
        terms = [level.diff(dim=axis).square().mean() for level in self.levels for axis in range(3)]
        return torch.stack(terms).sum()


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
