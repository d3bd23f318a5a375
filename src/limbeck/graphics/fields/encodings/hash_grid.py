"""Multi-resolution hash encoding (Instant-NGP): fine detail with bounded memory.

@article{mueller2022instant,
  title={Instant Neural Graphics Primitives with a Multiresolution Hash Encoding},
  author={M{\\"u}ller, Thomas and Evans, Alex and Schied, Christoph and Keller, Alexander},
  journal={ACM Transactions on Graphics}, volume={41}, number={4}, year={2022}}
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule

_HASH_PRIMES = (1, 2_654_435_761, 805_459_861)  #: pi_1, pi_2, pi_3 of eq. 4


class HashGridModule(EncodingModule):
    """Feature tables ``tables[l]`` of shape ``[T_l, f]``.

    T_l is the number of grid corners of level l (x fastest), or T where that is smaller.
    """

    def __init__(self, spec: HashGridEncoding, generator: torch.Generator):
        super().__init__()
        self.spec, self.resolutions = spec, spec.resolutions
        self.num_features = spec.num_levels * spec.features_per_level
        sizes = (min((side + 1) ** 3, 2**spec.log2_hashmap_size) for side in self.resolutions)
        values = (
            torch.rand(size, spec.features_per_level, generator=generator) * 2 - 1 for size in sizes
        )
        self.tables = nn.ParameterList(nn.Parameter(spec.init_scale * value) for value in values)

    def hash_indices(self, level: int, corner: Int[Tensor, "3 n"]) -> Int[Tensor, "8 n"]:
        """Table rows of the eight corners of cells, z slowest and x fastest.

        Corners have rows of their own where the table is large enough, otherwise
        h(v) = (v_1 pi_1 xor v_2 pi_2 xor v_3 pi_3) mod T (eq. 4).

        Args:
            level: index of the level.
            corner: integer coordinates (x, y, z) of the lowest corner of each cell.
        """
        side, size = self.resolutions[level] + 1, len(self.tables[level])
        dense = side**3 <= size
        factors = (1, side, side**2) if dense else _HASH_PRIMES
        x, y, z = (
            torch.stack([corner[axis], corner[axis] + 1]) * factors[axis] for axis in range(3)
        )
        y, z = y[:, None], z[:, None, None]
        return ((x + y + z) if dense else (x ^ y ^ z) & (size - 1)).view(8, -1)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        """Concatenated features of all levels; inactive levels are zeros and cost nothing."""
        # coordinates come first: everything that follows is contiguous along the points
        unit = ((points.clamp(-1, 1) + 1) / 2).t().contiguous()
        active = self.spec.active_levels(progress)
        features = [self._interpolate(level, unit) for level in range(active)]
        padding = self.num_features - active * self.spec.features_per_level
        return torch.cat([*features, unit.new_zeros(len(points), padding)], 1)

    def _interpolate(self, level: int, unit: Float[Tensor, "3 n"]) -> Float[Tensor, "n f"]:
        """Features of one level at points in [0, 1]^3."""
        side = self.resolutions[level]
        position = unit * side
        corner = position.detach().floor().clamp_max(side - 1)
        fraction = position - corner
        if self.spec.smoothstep:
            fraction = fraction * fraction * (3 - 2 * fraction)
        x, y, z = torch.stack([1 - fraction, fraction], 1)
        weight = (z[:, None, None] * y[:, None] * x).view(8, -1, 1)
        rows = self.hash_indices(level, corner.long()).view(-1)
        # index_select: on a CPU its backward costs a sixth of that of an embedding
        table = self.tables[level]
        features = table.index_select(0, rows).view(8, -1, self.spec.features_per_level)
        return (features * weight).sum(0)


@dataclass(frozen=True)
class HashGridEncoding(Encoding):
    """Instant-NGP's hash tables: coarse levels are dense, finer ones share rows by a hash.

    Attributes:
        num_levels: number of levels L (16).
        features_per_level: features F of a table row (2).
        log2_hashmap_size: base-2 logarithm of the largest table size T (19).
        base_resolution: cells along a side of the first level, N_min (16).
        max_resolution: cells along a side of the last level, N_max (2048); the levels between form
            a geometric series.
        smoothstep: interpolate with smoothstep weights, so that normals are continuous (appendix
            A, without its shift by half a cell).
        init_scale: initial features are uniform in [-init_scale, init_scale].
        initial_levels: levels active at the start of training. 0: all.
        level_schedule: fractions of training at which the first and the last of the other levels
            become active (threestudio: 8 levels, then one more after each 2% of training, from 8%
            on).
        lr_scale: learning rate of the encoding's parameters, relative to the field's.

    References:
        Müller et al., Instant-NGP, arXiv 2201.05989.
    """

    num_levels: int = 16
    features_per_level: int = 2
    log2_hashmap_size: int = 19
    base_resolution: int = 16
    max_resolution: int = 2048
    smoothstep: bool = True
    init_scale: float = 1e-4
    initial_levels: int = 0
    level_schedule: tuple[float, float] = (0.08, 0.22)

    def __post_init__(self) -> None:
        limits = {
            "num_levels": (1, 32),
            "features_per_level": (1, 16),
            "log2_hashmap_size": (4, 24),
            "initial_levels": (0, self.num_levels),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], not {getattr(self, name)}")
        if not 1 <= self.base_resolution <= self.max_resolution <= 2**20:
            raise ValueError(
                "1 <= base_resolution <= max_resolution <= 2^20 is required, "
                f"not {self.base_resolution} and {self.max_resolution}"
            )
        first, last = self.level_schedule
        if not 0 <= first <= last <= 1:
            raise ValueError(
                f"level_schedule takes two ascending fractions in [0, 1], not {first:g} {last:g}"
            )
        if self.init_scale < 0:
            raise ValueError(f"init_scale must not be negative, not {self.init_scale}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """N_l = floor(N_min b^l), b = exp((ln N_max - ln N_min) / (L - 1)) (eq. 2 and 3)."""
        growth = math.log(self.max_resolution / self.base_resolution) / max(self.num_levels - 1, 1)
        return tuple(
            math.floor(self.base_resolution * math.exp(growth * level) + 1e-6)
            for level in range(self.num_levels)
        )

    def active_levels(self, progress: float) -> int:
        """Number of active levels at this fraction of training."""
        first, last = self.level_schedule
        scheduled = self.num_levels - self.initial_levels
        if not self.initial_levels or scheduled == 0 or progress >= last:
            return self.num_levels
        if progress < first:
            return self.initial_levels
        done = (progress - first) / (last - first)
        return self.initial_levels + min(1 + math.floor(done * (scheduled - 1) + 1e-9), scheduled)

    def build(self, generator: torch.Generator) -> HashGridModule:
        return HashGridModule(self, generator)
