"""Integrated positional encoding, the encoding of DreamFusion's own network.

@inproceedings{barron2021mipnerf,
  title={Mip-{NeRF}: A Multiscale Representation for Anti-Aliasing Neural Radiance Fields},
  author={Barron, Jonathan T. and Mildenhall, Ben and Tancik, Matthew and Hedman, Peter and
    Martin-Brualla, Ricardo and Srinivasan, Pratul P.}, booktitle={ICCV}, year={2021}}
@inproceedings{poole2023dreamfusion,
  title={{DreamFusion}: Text-to-{3D} using {2D} Diffusion},
  author={Poole, Ben and Jain, Ajay and Barron, Jonathan T. and Mildenhall, Ben},
  booktitle={ICLR}, year={2023}}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule


def integrated_positional_encoding(
    points: Float[Tensor, "n d"], num_frequencies: int, variance: float = 0.0
) -> Float[Tensor, "n w"]:
    """E[(sin 2^l x, cos 2^l x)] for x ~ N(points, variance I) (mip-NeRF eq. 13-14).

    A wave of frequency 2^l is damped by exp(-4^l variance / 2).

    Args:
        points: means of the Gaussians.
        num_frequencies: number of octaves l = 0, 1, ...
        variance: variance of the Gaussians along every axis.

    Returns:
        Sines, then cosines, each ordered by octave and then by axis.
    """
    scale = 2.0 ** torch.arange(num_frequencies, device=points.device, dtype=points.dtype)
    angle = (points[:, None] * scale[:, None]).flatten(1)
    damping = torch.exp(scale.square() * (-variance / 2)).repeat_interleave(points.shape[1])
    return torch.cat([angle.sin() * damping, angle.cos() * damping], 1)


class FrequencyModule(EncodingModule):
    """Integrated positional encoding; it has no parameters."""

    def __init__(self, spec: FrequencyEncoding):
        super().__init__()
        self.spec, self.num_features = spec, 6 * spec.num_frequencies

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        return integrated_positional_encoding(
            points.clamp(-1, 1), self.spec.num_frequencies, self.spec.variance(progress)
        )


@dataclass(frozen=True)
class FrequencyEncoding(Encoding):
    """Sines and cosines of the position, blurred less and less, so that shapes precede details.

    It needs a decoder with weights: ``--representation.decoder residual`` is the paper's.

    Attributes:
        num_frequencies: octaves L, with frequencies 1 to 2^(L - 1) (DreamFusion: 8).
        initial_variance: variance lambda_Sigma at the start of training (DreamFusion: 0.05).
        final_variance: variance lambda_Sigma after the annealing (DreamFusion: 0.002).
        anneal_fraction: fraction of training over which the variance falls linearly (DreamFusion:
            1/3). 0: final variance from the start.
        lr_scale: unused, since nothing is learned.

    References:
        Poole et al., DreamFusion, section 3.1.
    """

    num_frequencies: int = 8
    initial_variance: float = 0.05
    final_variance: float = 0.002
    anneal_fraction: float = 1 / 3

    def __post_init__(self) -> None:
        if not 1 <= self.num_frequencies <= 20:
            raise ValueError(f"num_frequencies must be in [1, 20], not {self.num_frequencies}")
        if min(self.initial_variance, self.final_variance) < 0:
            raise ValueError(
                "initial_variance and final_variance must not be negative, "
                f"not {self.initial_variance} and {self.final_variance}"
            )
        if not 0 <= self.anneal_fraction <= 1:
            raise ValueError(f"anneal_fraction must be in [0, 1], not {self.anneal_fraction}")

    def variance(self, progress: float) -> float:
        """lambda_Sigma at this fraction of training."""
        done = min(progress / self.anneal_fraction, 1.0) if self.anneal_fraction else 1.0
        return self.initial_variance * (1 - done) + self.final_variance * done

    def build(self, generator: torch.Generator) -> FrequencyModule:
        return FrequencyModule(self)
