"""Decoders: from the features of a point to raw density and raw colors."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding

#: Gain of the last layer, small so that a field starts near its density init and near gray.
_OUTPUT_GAIN = 0.1


@dataclass(frozen=True)
class Decoder(abc.ABC):
    """Options of a decoder.

    Attributes:
        lr_scale: learning rate of the decoder's parameters, relative to the field's.
    """

    lr_scale: float = field(default=1.0, kw_only=True, metadata={"minimum": 0})

    @abc.abstractmethod
    def build(
        self, num_features: int, generator: torch.Generator, num_outputs: int = 4
    ) -> nn.Module:
        """Build the module on the CPU, with parameters drawn from the generator.

        Args:
            num_features: number of input features.
            generator: source of the initial parameters.
            num_outputs: number of outputs: density, then colors.

        Returns:
            A module from ``[N, num_features]`` to ``[N, num_outputs]``.
        """


def init_linear(
    num_inputs: int, num_outputs: int, generator: torch.Generator, gain: float = 1.0
) -> nn.Linear:
    """Build a linear layer with weights N(0, gain^2 / num_inputs) and zero bias.

    Args:
        num_inputs: number of inputs.
        num_outputs: number of outputs.
        generator: source of the weights.
        gain: 2^.5 is He's gain before a ReLU.
    """
    layer = nn.utils.skip_init(nn.Linear, num_inputs, num_outputs)
    std = gain / math.sqrt(num_inputs)
    layer.weight.data = torch.randn(num_outputs, num_inputs, generator=generator) * std
    layer.bias.data = torch.zeros(num_outputs)
    return layer


def init_mlp(widths: Iterable[int], generator: torch.Generator) -> nn.Sequential:
    """Build linear layers of these widths with ReLU between them and a small last layer."""
    *hidden, last = pairwise(widths)
    layers: list[nn.Module] = []
    for num_inputs, num_outputs in hidden:
        layers += [init_linear(num_inputs, num_outputs, generator, math.sqrt(2)), nn.ReLU()]
    return nn.Sequential(*layers, init_linear(*last, generator, _OUTPUT_GAIN))


class _FirstFeatures(nn.Module):
    """Returns the first features unchanged."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n o"]:
        return features[:, : self.num_outputs]


@dataclass(frozen=True)
class IdentityDecoder(Decoder):
    """No network: the first features are density and colors themselves.

    Attributes:
        lr_scale: unused, since nothing is learned.

    References:
        Sun et al., Direct Voxel Grid Optimization, arXiv 2111.11215 (the coarse stage).
    """

    def build(
        self, num_features: int, generator: torch.Generator, num_outputs: int = 4
    ) -> nn.Module:
        if num_features < num_outputs:
            raise ValueError(
                f"decoder identity needs an encoding of at least {num_outputs} features, "
                f"not {num_features}; choose one with more features or decoder mlp"
            )
        return _FirstFeatures(num_outputs)


def check_decoder_learns(encoding: Encoding, decoder: Decoder) -> None:
    """Refuse a field without parameters.

    Args:
        encoding: options of its encoding.
        decoder: options of its decoder.

    Raises:
        ValueError: if neither of them learns anything.
    """
    if isinstance(encoding, FrequencyEncoding) and isinstance(decoder, IdentityDecoder):
        raise ValueError(
            "decoder identity learns nothing on encoding frequency: use "
            "--representation.decoder mlp or residual, or another encoding"
        )


@dataclass(frozen=True)
class MLPDecoder(Decoder):
    """One hidden layer with ReLU.

    Attributes:
        hidden_dim: width of the hidden layer (ProlificDreamer's code: 32).
        lr_scale: learning rate of the decoder's parameters, relative to the field's.

    References:
        Müller et al., Instant-NGP, arXiv 2201.05989, section 4: one hidden layer before the
        density.
    """

    hidden_dim: int = 32

    def __post_init__(self) -> None:
        if self.hidden_dim < 1:
            raise ValueError(f"hidden_dim must be at least 1, not {self.hidden_dim}")

    def build(
        self, num_features: int, generator: torch.Generator, num_outputs: int = 4
    ) -> nn.Module:
        return init_mlp((num_features, self.hidden_dim, num_outputs), generator)


class _ResidualBlock(nn.Module):
    """x + W_2 SiLU(W_1 LayerNorm(x)); W_2 starts small, so that the block is near the identity."""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = init_linear(width, width, generator, math.sqrt(2))
        self.second = init_linear(width, width, generator, _OUTPUT_GAIN)

    def forward(self, x: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        return x + self.second(nn.functional.silu(self.first(self.norm(x))))


@dataclass(frozen=True)
class ResidualDecoder(Decoder):
    """Residual blocks with SiLU and layer normalization, as in DreamFusion.

    Attributes:
        num_blocks: number of residual blocks (DreamFusion: 5).
        hidden_dim: width of the blocks (DreamFusion: 128).
        lr_scale: learning rate of the decoder's parameters, relative to the field's.

    References:
        Poole et al., DreamFusion, arXiv 2209.14988, appendix A.
    """

    num_blocks: int = 5
    hidden_dim: int = 128

    def __post_init__(self) -> None:
        for name in ("num_blocks", "hidden_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def build(
        self, num_features: int, generator: torch.Generator, num_outputs: int = 4
    ) -> nn.Module:
        first = init_linear(num_features, self.hidden_dim, generator)
        blocks = [_ResidualBlock(self.hidden_dim, generator) for _ in range(self.num_blocks)]
        last = init_linear(self.hidden_dim, num_outputs, generator, _OUTPUT_GAIN)
        return nn.Sequential(first, *blocks, nn.LayerNorm(self.hidden_dim), last)
