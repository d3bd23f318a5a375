"""Waves of the place, blurred as by a Gaussian around it: the encoding of DreamFusion's own network.

@inproceedings{barron2021mipnerf,
  title={Mip-{NeRF}: A Multiscale Representation for Anti-Aliasing Neural Radiance Fields},
  author={Barron, Jonathan T. and Mildenhall, Ben and Tancik, Matthew and Hedman, Peter and Martin-Brualla, Ricardo and Srinivasan,
    Pratul P.}, booktitle={ICCV}, year={2021}}
@inproceedings{poole2023dreamfusion,
  title={{DreamFusion}: Text-to-{3D} using {2D} Diffusion}, author={Poole, Ben and Jain, Ajay and Barron, Jonathan T. and
    Mildenhall, Ben}, booktitle={ICLR}, year={2023}}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule


def integrated_positional_encoding(
    points: Float[Tensor, "n d"], octaves: int, variance: float = 0.0
) -> Float[Tensor, "n w"]:
    """E[(sin 2^l x, cos 2^l x)] for x ~ N(points, variance I), l < octaves: integrated positional encoding (mip-NeRF eq. 13-14).

    A wave 2^l is damped by exp(-4^l variance / 2). The order is sines, then cosines, each by octave and then by axis.
    """
    scale = 2.0 ** torch.arange(octaves, device=points.device, dtype=points.dtype)
    angle = (points[:, None] * scale[:, None]).flatten(1)
    damped = torch.exp(scale.square() * (-variance / 2)).repeat_interleave(points.shape[1])
    return torch.cat([angle.sin() * damped, angle.cos() * damped], 1)


class FrequencyModule(EncodingModule):
    """No parameters: the decoder has them all."""

    def __init__(self, spec: FrequencyEncoding):
        super().__init__()
        self.spec, self.width = spec, 6 * spec.octaves

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        return integrated_positional_encoding(
            points.clamp(-1, 1), self.spec.octaves, self.spec.variance(progress)
        )


@dataclass(frozen=True)
class FrequencyEncoding(Encoding):
    """Sines and cosines of a place known with a variance that falls, so that shapes come before details (DreamFusion, section 3.1).
    It wants a decoder with weights: --representation.decoder residual for the paper's.

    octaves: L, frequencies 1 to 2^(L - 1) (8). first, last: variance lambda_Sigma at the start and in the end (.05; .002). until:
    share of the run over which it falls, linearly (1/3).
    """

    octaves: int = 8
    first: float = 0.05
    last: float = 0.002
    until: float = 1 / 3

    def __post_init__(self) -> None:
        if not 1 <= self.octaves <= 20:
            raise ValueError(f"octaves must be in [1, 20], not {self.octaves}")
        if min(self.first, self.last) < 0:
            raise ValueError(
                f"first and last are variances of at least 0, not {self.first} and {self.last}"
            )
        if not 0 <= self.until <= 1:
            raise ValueError(f"until is a share in [0, 1], not {self.until}")

    def variance(self, progress: float) -> float:
        """lambda_Sigma at this share of the run."""
        done = min(progress / self.until, 1.0) if self.until else 1.0
        return self.first * (1 - done) + self.last * done

    def build(self, generator: torch.Generator) -> FrequencyModule:
        return FrequencyModule(self)
