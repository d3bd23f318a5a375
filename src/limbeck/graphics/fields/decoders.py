"""What the features of a point mean: raw density, then raw colours. A field makes a density and an albedo of them."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

OUTPUT_GAIN = 0.1  #: of the last layer's weights, so that a field begins near its blob and near grey


@dataclass(frozen=True)
class Decoder(abc.ABC):
    """The options of a decoder.

    rate: of its parameters, in units of the field's rate.
    """

    rate: float = field(default=1.0, kw_only=True)

    @abc.abstractmethod
    def build(self, width: int, generator: torch.Generator, outputs: int = 4) -> nn.Module:
        """A module from features ``[n, width]`` to ``[n, outputs]``, its parameters drawn by the generator on the CPU."""


def init_linear(
    inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0
) -> nn.Linear:
    """A layer with weights N(0, gain^2 / inputs) and no bias at the start; 2^.5 is He's gain before a ReLU."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    layer.weight.data = torch.randn(outputs, inputs, generator=generator) * (
        gain / math.sqrt(inputs)
    )
    layer.bias.data = torch.zeros(outputs)
    return layer


def init_mlp(widths: Iterable[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers of these widths, ReLU between them, the last a tenth of the others."""
    *hidden, last = pairwise(widths)
    layers: list[nn.Module] = []
    for inputs, outputs in hidden:
        layers += [init_linear(inputs, outputs, generator, math.sqrt(2)), nn.ReLU()]
    return nn.Sequential(*layers, init_linear(*last, generator, OUTPUT_GAIN))


class _First(nn.Module):
    """The first features, as they are."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n o"]:
        return features[:, : self.outputs]


@dataclass(frozen=True)
class IdentityDecoder(Decoder):
    """No network: the first features are density and colours themselves, as in Direct Voxel Grid Optimization's coarse stage
    (arXiv 2111.11215)."""

    def build(self, width: int, generator: torch.Generator, outputs: int = 4) -> nn.Module:
        if width < outputs:
            raise ValueError(
                f"without a network the encoding needs at least {outputs} features, not {width}"
            )
        return _First(outputs)


@dataclass(frozen=True)
class MLPDecoder(Decoder):
    """One hidden layer with ReLU (Instant-NGP, arXiv 2201.05989, section 4, has one before the density).

    hidden: units (ProlificDreamer's code: 32).
    """

    hidden: int = 32

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, not {self.hidden}")

    def build(self, width: int, generator: torch.Generator, outputs: int = 4) -> nn.Module:
        return init_mlp((width, self.hidden, outputs), generator)


class _Block(nn.Module):
    """x + W_2 SiLU(W_1 LayerNorm(x)); W_2 begins small, so that blocks begin near the identity."""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = init_linear(width, width, generator, math.sqrt(2))
        self.second = init_linear(width, width, generator, OUTPUT_GAIN)

    def forward(self, x: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        return x + self.second(nn.functional.silu(self.first(self.norm(x))))


@dataclass(frozen=True)
class ResidualDecoder(Decoder):
    """Residual blocks with SiLU and layer normalisation, the network of DreamFusion (arXiv 2209.14988, appendix A).

    blocks: how many (5). hidden: units (128).
    """

    blocks: int = 5
    hidden: int = 128

    def __post_init__(self) -> None:
        for name in ("blocks", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def build(self, width: int, generator: torch.Generator, outputs: int = 4) -> nn.Module:
        first = init_linear(width, self.hidden, generator)
        blocks = (_Block(self.hidden, generator) for _ in range(self.blocks))
        return nn.Sequential(
            first,
            *blocks,
            nn.LayerNorm(self.hidden),
            init_linear(self.hidden, outputs, generator, OUTPUT_GAIN),
        )
