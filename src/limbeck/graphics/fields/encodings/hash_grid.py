"""Multi-resolution hash tables: fine detail where there is a surface, at a fixed price in memory.

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

HASH_PRIMES = (1, 2_654_435_761, 805_459_861)  #: pi_1, pi_2, pi_3 of eq. 4


class HashGridModule(EncodingModule):
    """``tables[l]`` is ``[T_l, f]``: as many rows as level l has corners, x fastest, or T, where that is fewer."""

    def __init__(self, spec: HashGridEncoding, generator: torch.Generator):
        super().__init__()
        self.spec, self.width, self.sides = spec, spec.levels * spec.features, spec.sides
        rows = (min((side + 1) ** 3, 2**spec.log2_rows) for side in self.sides)
        draw = (torch.rand(count, spec.features, generator=generator) * 2 - 1 for count in rows)
        self.tables = nn.ParameterList(nn.Parameter(spec.spread * values) for values in draw)

    def rows(self, level: int, corner: Int[Tensor, "3 n"]) -> Int[Tensor, "8 n"]:
        """Where the features of the eight corners of cells are, z slowest and x fastest: their own rows where there is one for
        each, else h(v) = (v_1 pi_1 xor v_2 pi_2 xor v_3 pi_3) mod T (eq. 4)."""
        side, size = self.sides[level] + 1, len(self.tables[level])
        dense = side**3 <= size
        x, y, z = (
            torch.stack([corner[i], corner[i] + 1]) * (side**i if dense else HASH_PRIMES[i])
            for i in range(3)
        )
        y, z = y[:, None], z[:, None, None]
        return ((x + y + z) if dense else (x ^ y ^ z) & (size - 1)).view(8, -1)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n f"]:
        """The features of all levels, one after another; zeros, and no work, for those that are not open yet."""
        unit = (
            ((points.clamp(-1, 1) + 1) / 2).t().contiguous()
        )  # coordinate by coordinate: all that follows runs along the points
        count = self.spec.open_at(progress)
        told = [self._level(level, unit) for level in range(count)]
        return torch.cat(
            [*told, unit.new_zeros(len(points), self.width - count * self.spec.features)], 1
        )

    def _level(self, level: int, unit: Float[Tensor, "3 n"]) -> Float[Tensor, "n f"]:
        side = self.sides[level]
        place = unit * side
        corner = place.detach().floor().clamp_max(side - 1)
        far = place - corner
        if self.spec.smooth:
            far = far * far * (3 - 2 * far)
        x, y, z = torch.stack([1 - far, far], 1)
        weight = (z[:, None, None] * y[:, None] * x).view(8, -1, 1)
        rows = self.rows(level, corner.long()).view(-1)
        # index_select: on a CPU its way back costs a sixth of that of an embedding
        seen = self.tables[level].index_select(0, rows).view(8, -1, self.spec.features)
        return (seen * weight).sum(0)


@dataclass(frozen=True)
class HashGridEncoding(Encoding):
    """Instant-NGP's hash tables (arXiv 2201.05989): coarse levels have a row per corner, finer ones share rows by a hash.

    levels: how many (16). features: of each level (2). log2_rows: binary logarithm of the longest table (19). coarsest, finest:
    cells along a side of the first and last level (16; 2048), the others in a geometric series. smooth: weights of corners by a
    smooth step, so that normals have no jumps (appendix A, without its shift by half a cell). spread: features begin uniform in +-
    this. begin: levels open at the start; 0 for all. opening: shares of the run at which the first of the others opens and the last
    one does (threestudio: 8 levels, then one more after each 2% of the run, from 8% on).
    """

    levels: int = 16
    features: int = 2
    log2_rows: int = 19
    coarsest: int = 16
    finest: int = 2048
    smooth: bool = True
    spread: float = 1e-4
    begin: int = 0
    opening: tuple[float, float] = (0.08, 0.22)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("levels", 1, 32),
            ("features", 1, 16),
            ("log2_rows", 4, 24),
            ("begin", 0, self.levels),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in [{least}, {most}], not {getattr(self, name)}")
        if not 1 <= self.coarsest <= self.finest <= 2**20:
            raise ValueError(
                f"1 <= coarsest <= finest <= 2^20 does not hold of {self.coarsest} and {self.finest}"
            )
        if not 0 <= self.opening[0] <= self.opening[1] <= 1:
            raise ValueError(
                f"opening takes two ascending shares in [0, 1], not {self.opening[0]:g} {self.opening[1]:g}"
            )
        if self.spread < 0:
            raise ValueError(f"spread must not be negative, not {self.spread}")

    @property
    def sides(self) -> tuple[int, ...]:
        """N_l = floor(N_min b^l), b = exp((ln N_max - ln N_min) / (L - 1)): eq. 2 and 3."""
        growth = math.log(self.finest / self.coarsest) / max(self.levels - 1, 1)
        return tuple(
            math.floor(self.coarsest * math.exp(growth * level) + 1e-6)
            for level in range(self.levels)
        )

    def open_at(self, progress: float) -> int:
        """How many levels are open at this share of the run."""
        first, last = self.opening
        closed = self.levels - self.begin
        if not self.begin or closed == 0 or progress >= last:
            return self.levels
        if progress < first:
            return self.begin
        return self.begin + min(
            1 + math.floor((progress - first) / (last - first) * (closed - 1) + 1e-9), closed
        )

    def build(self, generator: torch.Generator) -> HashGridModule:
        return HashGridModule(self, generator)
