"""Three planes of features, seen along the axes: the square of a grid's side in memory, not its cube.

@inproceedings{chan2022eg3d,
  title={Efficient Geometry-aware {3D} Generative Adversarial Networks},
  author={Chan, Eric R. and Lin, Connor Z. and Chan, Matthew A. and others}, booktitle={CVPR}, year={2022}}
@inproceedings{fridovich2023kplanes,
  title={K-Planes: Explicit Radiance Fields in Space, Time, and Appearance},
  author={Fridovich-Keil, Sara and Meanti, Giacomo and Warburg, Frederik Rahb{\\ae}k and Recht, Benjamin and Kanazawa, Angjoo},
  booktitle={CVPR}, year={2023}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule

PLANE_AXES = ((0, 1), (0, 2), (1, 2))  #: the two coordinates of a point that each plane knows: xy, xz, yz


class TriplaneModule(EncodingModule):
    """``levels[l]`` is ``[3, f, n, n]``: three planes, the second of their coordinates before the first."""

    def __init__(self, spec: TriplaneEncoding, generator: torch.Generator):
        super().__init__()
        centre = 1.0 if spec.planes_are == "multiplied" else 0.0
        draw = (torch.randn(3, spec.features, n, n, generator=generator) for n in spec.levels)
        self.levels = nn.ParameterList(
            nn.Parameter(centre + spec.spread * values) for values in draw
        )
        self.multiplied, self.joined = spec.planes_are == "multiplied", spec.levels_are == "joined"
        self.width = spec.features * (len(spec.levels) if self.joined else 1)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        """In every level the sum (EG3D, section 4.1) or the product (K-Planes, section 3.1) of what the planes say of a point."""
        at = torch.stack([points[:, pair] for pair in PLANE_AXES])[:, :, None]
        read = [
            F.grid_sample(level, at, align_corners=True, padding_mode="border")[..., 0]
            for level in self.levels
        ]
        told = [
            planes[0] * planes[1] * planes[2] if self.multiplied else planes.sum(0)
            for planes in read
        ]
        return (torch.cat(told) if self.joined else torch.stack(told).sum(0)).t()

    def roughness(self) -> Float[Tensor, ""]:
        """Total variation, squared, as K-Planes has it: over levels and axes, the mean squared difference of neighbours."""
        return torch.stack(
            [level.diff(dim=axis).square().mean() for level in self.levels for axis in (2, 3)]
        ).sum()


@dataclass(frozen=True)
class TriplaneEncoding(Encoding):
    """Three planes of features over the box, at several resolutions.

    levels: points along a side of each. features: of a point of a plane. planes_are: summed, which begin near 0, or multiplied,
    which begin near 1 and can tell where two planes agree. levels_are: summed, or joined to a longer list, which only a decoder
    with weights can make use of. spread: deviation of the features at the start.
    """

    levels: tuple[int, ...] = (32, 64, 128)
    features: int = 8
    planes_are: Literal["summed", "multiplied"] = "multiplied"
    levels_are: Literal["summed", "joined"] = "joined"
    spread: float = 0.1

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(
                f"levels takes one or more sides of at least 2 points, not {self.levels}"
            )
        if self.features < 1:
            raise ValueError(f"features must be at least 1, not {self.features}")
        for name, accepted in (
            ("planes_are", ("summed", "multiplied")),
            ("levels_are", ("summed", "joined")),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name} is one of {', '.join(accepted)}, not {getattr(self, name)!r}"
                )
        if self.spread < 0:
            raise ValueError(f"spread must not be negative, not {self.spread}")

    def build(self, generator: torch.Generator) -> TriplaneModule:
        return TriplaneModule(self, generator)
