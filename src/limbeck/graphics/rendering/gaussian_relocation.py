"""Dead Gaussians moved onto living ones, so that their number stays: 3DGS-MCMC (Kheradmand et al. 2024, arXiv 2404.09591)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def split_opacity_and_scale(
    opacity: Float[Tensor, "n"], number: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Opacity of each of ``number`` equal Gaussians that stand for one of an opacity in [0, 1), and what their deviations are
    multiplied by: eq. 9.

    o' = 1 - (1 - o)^(1/N), so that they are as opaque in the middle; S' = o^2 (sum_{i=1}^N sum_{k=0}^{i-1} C(i-1, k) (-1)^k
    o'^(k+1) / sqrt(k+1))^-2 S, so that the integral along a line through it stays. The inner binomials add up to C(N, k+1).
    """
    old, count = opacity.double(), number.double()
    new = -torch.expm1(torch.log1p(-old) / count)
    total, term = torch.zeros_like(new), torch.ones_like(new)
    for m in range(
        1, int(number.max()) + 1 if len(number) else 1
    ):  # (-1)^(m+1) C(N, m) o'^m, 0 beyond N
        term = term * (new * (count - m + 1).clamp_min(0) / m) * (-1 if m > 1 else 1)
        total = total + term / m**0.5
    return new.to(opacity), (old / total).to(opacity)


def choose_relocations(
    weight: Float[Tensor, "n"], dead: Bool[Tensor, "n"], rng: torch.Generator
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """The dead, and for each the living one it moves to, drawn in proportion to weight; none where nothing lives. On the CPU."""
    weight, dead = weight.cpu().double(), dead.cpu()
    alive = torch.where(dead, 0.0, weight)
    movers = dead.nonzero().squeeze(1)
    if not len(movers) or not bool(alive.sum() > 0):
        return movers[:0], movers[:0]
    return movers, torch.multinomial(alive, len(movers), replacement=True, generator=rng)


def reset_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Iterable[Tensor], rows: Int[Tensor, "m"]
) -> None:
    """Set to zero what an optimiser remembers of some rows of tensors."""
    for tensor in tensors:
        for memory in optimizer.state[tensor].values():
            if isinstance(memory, Tensor) and memory.shape == tensor.shape:
                memory[rows] = 0
