"""Dense grids of features at several resolutions, read between their points: for a CPU the fastest encoding by far.

@inproceedings{sun2022dvgo,
  title={Direct Voxel Grid Optimization: Super-fast Convergence for Radiance Fields Reconstruction},
  author={Sun, Cheng and Sun, Min and Chen, Hwann-Tzong}, booktitle={CVPR}, year={2022}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule


class DenseGridModule(EncodingModule):
    """``levels[l]`` is ``[n, n, n, f]`` over z, y, x: the features of a point lie side by side, so that reading all of them, and
    adding to all of them on the way back, touches one line of the cache per corner."""

    def __init__(self, spec: DenseGridEncoding, generator: torch.Generator):
        super().__init__()
        draw = (torch.randn(n, n, n, spec.features, generator=generator) for n in spec.levels)
        self.levels = nn.ParameterList(nn.Parameter(spec.spread * values) for values in draw)
        self.joined = spec.levels_are == "joined"
        self.width = spec.features * (len(spec.levels) if self.joined else 1)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        """Trilinear interpolation in every level (DVGO, section 4); the outermost points of a grid lie on the faces of the box."""
        at = points[None, :, None, None]
        read = [
            F.grid_sample(
                level.permute(3, 0, 1, 2)[None], at, align_corners=True, padding_mode="border"
            ).view(-1, len(points))
            for level in self.levels
        ]
        return (
            torch.cat(read)
            if self.joined
            else torch.stack(read).sum(0)
            if len(read) > 1
            else read[0]
        ).t()

    def roughness(self) -> Float[Tensor, ""]:
        """Total variation, squared: over the levels and axes, the sum of the mean squared differences of neighbours."""
        return torch.stack(
            [level.diff(dim=axis).square().mean() for level in self.levels for axis in range(3)]
        ).sum()


@dataclass(frozen=True)
class DenseGridEncoding(Encoding):
    """Dense grids over the box, from coarse to fine.

    levels: points along a side of each. features: of a point of a grid. levels_are: summed, or joined to a longer list, which only
    a decoder with weights can make use of. spread: deviation of the features at the start.
    """

    levels: tuple[int, ...] = (16, 32, 64)
    features: int = 4
    levels_are: Literal["summed", "joined"] = "summed"
    spread: float = 0.01

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(
                f"levels takes one or more sides of at least 2 points, not {self.levels}"
            )
        if self.features < 1:
            raise ValueError(f"features must be at least 1, not {self.features}")
        if self.levels_are not in ("summed", "joined"):
            raise ValueError(f"levels_are is one of summed, joined, not {self.levels_are!r}")
        if self.spread < 0:
            raise ValueError(f"spread must not be negative, not {self.spread}")

    def build(self, generator: torch.Generator) -> DenseGridModule:
        return DenseGridModule(self, generator)
