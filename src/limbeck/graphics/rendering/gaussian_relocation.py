"""Relocation of dead Gaussians onto living ones, which keeps their number fixed (3DGS-MCMC).

References:
    Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, 2024, arXiv 2404.09591.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def split_opacity_and_scale(
    opacities: Float[Tensor, "n"], counts: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Opacity and scale of the copies when one Gaussian becomes N equal ones (eq. 9).

    o' = 1 - (1 - o)^(1/N) keeps the opacity at the center;
    S' = o^2 (sum_{i=1}^N sum_{k=0}^{i-1} C(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1))^-2 S keeps the
    integral along a line through it. The inner binomials add up to C(N, k+1).

    Args:
        opacities: opacities o in [0, 1).
        counts: number N of copies of each Gaussian, at least 1.

    Returns:
        The new opacities, and the factors for the standard deviations.
    """
    old, count = opacities.double(), counts.double()
    new = -torch.expm1(torch.log1p(-old) / count)
    total, term = torch.zeros_like(new), torch.ones_like(new)
    max_count = int(counts.max()) if len(counts) else 0
    for m in range(1, max_count + 1):  # term: (-1)^(m+1) C(N, m) o'^m, which is 0 beyond N
        term = term * (new * (count - m + 1).clamp_min(0) / m) * (-1 if m > 1 else 1)
        total = total + term / m**0.5
    return new.to(opacities), (old / total).to(opacities)


def choose_relocations(
    weight: Float[Tensor, "n"], dead: Bool[Tensor, "n"], rng: torch.Generator
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """Choose a living Gaussian for each dead one, on the CPU.

    Args:
        weight: sampling weights of the living Gaussians.
        dead: which Gaussians are dead.
        rng: source of the samples.

    Returns:
        Indices of the dead Gaussians, and of the living one each moves to. Both are empty if all
        Gaussians are dead.
    """
    weight, dead = weight.cpu().double(), dead.cpu()
    living_weight = torch.where(dead, 0.0, weight)
    source = dead.nonzero().squeeze(1)
    if not len(source) or not bool(living_weight.sum() > 0):
        return source[:0], source[:0]
    target = torch.multinomial(living_weight, len(source), replacement=True, generator=rng)
    return source, target


def reset_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Iterable[Tensor], rows: Int[Tensor, "m"]
) -> None:
    """Set the optimizer state of some rows to zero.

    Args:
        optimizer: optimizer of the tensors.
        tensors: parameters with one row per Gaussian.
        rows: indices of the rows.
    """
    for tensor in tensors:
        for state in optimizer.state[tensor].values():
            if isinstance(state, Tensor) and state.shape == tensor.shape:
                state[rows] = 0
