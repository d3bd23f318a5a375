"""Triplane encoding: three feature planes, with memory quadratic in the resolution.

@inproceedings{chan2022eg3d,
  title={Efficient Geometry-aware {3D} Generative Adversarial Networks},
  author={Chan, Eric R. and Lin, Connor Z. and Chan, Matthew A. and others},
  booktitle={CVPR}, year={2022}}
@inproceedings{fridovich2023kplanes,
  title={K-Planes: Explicit Radiance Fields in Space, Time, and Appearance},
  author={Fridovich-Keil, Sara and Meanti, Giacomo and Warburg, Frederik Rahb{\\ae}k and Recht,
    Benjamin and Kanazawa, Angjoo}, booktitle={CVPR}, year={2023}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graphics.fields.encodings.base import (
    Encoding,
    EncodingModule,
    check_grid_options,
    mean_squared_difference,
)

_PLANE_AXES = ((0, 1), (0, 2), (1, 2))  #: the two coordinates of each plane: xy, xz, yz


class TriplaneModule(EncodingModule):
    """Planes ``levels[l]`` of shape ``[3, f, n, n]``, indexed by the second coordinate first."""

    def __init__(self, spec: TriplaneEncoding, generator: torch.Generator):
        super().__init__()
        self.spec = spec
        size = spec.features_per_level
        mean = 1.0 if spec.plane_reduce == "product" else 0.0
        values = (torch.randn(3, size, n, n, generator=generator) for n in spec.resolutions)
        self.levels = nn.ParameterList(
            nn.Parameter(mean + spec.init_std * value) for value in values
        )
        self.num_features = size * (len(spec.resolutions) if spec.level_reduce == "concat" else 1)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        """Interpolate the planes of every level and reduce them.

        Planes are added (EG3D, section 4.1) or multiplied (K-Planes, section 3.1).
        """
        grid = torch.stack([points[:, axes] for axes in _PLANE_AXES])[:, :, None]
        features = []
        for level in self.levels:
            planes = F.grid_sample(level, grid, align_corners=True, padding_mode="border")[..., 0]
            if self.spec.plane_reduce == "product":
                features.append(planes[0] * planes[1] * planes[2])
            else:
                features.append(planes.sum(0))
        if self.spec.level_reduce == "concat":
            return torch.cat(features).t()
        return torch.stack(features).sum(0).t()

    def total_variation(self) -> Float[Tensor, ""]:
        """Mean squared difference of neighbors, summed over levels and axes (as in K-Planes)."""
        terms = [mean_squared_difference(level, (2, 3)) for level in self.levels]
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class TriplaneEncoding(Encoding):
    """Three feature planes over the box, at several resolutions.

    Attributes:
        resolutions: points along a side of the planes, per level.
        features_per_level: features of a plane point.
        plane_reduce: add the three planes ("sum"; features start near 0), or multiply them
            ("product"; features start near 1 and can express where planes agree).
        level_reduce: add the features of the levels ("sum"), or concatenate them ("concat"), which
            needs a decoder with weights.
        init_std: standard deviation of the initial features.
        lr_scale: learning rate of the encoding's parameters, relative to the field's.
    """

    resolutions: tuple[int, ...] = (32, 64, 128)
    features_per_level: int = 8
    plane_reduce: Literal["sum", "product"] = "product"
    level_reduce: Literal["sum", "concat"] = "concat"
    init_std: float = 0.1

    def __post_init__(self) -> None:
        check_grid_options(self.resolutions, self.features_per_level, self.init_std)
        if self.plane_reduce not in ("sum", "product"):
            raise ValueError(f"plane_reduce must be one of sum, product, not {self.plane_reduce!r}")
        if self.level_reduce not in ("sum", "concat"):
            raise ValueError(f"level_reduce must be one of sum, concat, not {self.level_reduce!r}")

    def build(self, generator: torch.Generator) -> TriplaneModule:
        return TriplaneModule(self, generator)
