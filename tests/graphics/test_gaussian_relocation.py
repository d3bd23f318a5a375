"""Relocation of Gaussians: eq. 9 of 3DGS-MCMC, and which are chosen."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_pipeline import max_difference, rng

from limbeck.graphics.rendering.gaussian_relocation import (
    choose_relocations,
    reset_optimizer_state,
    split_opacity_and_scale,
)


def double_sum_of_eq_9(opacity: float, number: int) -> float:
    """The denominator as written in the paper; ours adds up the inner binomials."""
    return math.fsum(
        math.comb(i - 1, k) * (-1) ** k * opacity ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, number + 1)
        for k in range(i)
    )


def test_shares_follow_eq_9():
    opacity = torch.tensor([0.05, 0.5, 0.9, 0.99], dtype=torch.float64)
    number = torch.tensor([1, 2, 7, 40])
    new, factor = split_opacity_and_scale(opacity, number)
    columns = (opacity.tolist(), number.tolist(), new.tolist(), factor.tolist())
    for old, n, o, f in zip(*columns, strict=True):
        assert o == pytest.approx(1 - (1 - old) ** (1 / n), abs=1e-12)
        assert f == pytest.approx(old / double_sum_of_eq_9(o, n), rel=1e-6)
    assert (float(new[0]), float(factor[0])) == (pytest.approx(0.05), pytest.approx(1.0))


@pytest.mark.parametrize("number", [2, 3, 10])
@pytest.mark.parametrize("opacity", [0.2, 0.6, 0.95])
def test_shares_keep_the_opacity_at_the_center_and_the_integral(opacity, number):
    """In between, they differ by at most .11 of the opacity, and by .4 of what unchanged scales
    would."""
    opacities = torch.tensor([opacity], dtype=torch.float64)
    new, factor = split_opacity_and_scale(opacities, torch.tensor([number]))
    x = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    before = opacity * (-(x**2) / 2).exp()
    after = 1 - (1 - new * (-((x / factor) ** 2) / 2).exp()) ** number
    assert float(after[12000]) == pytest.approx(opacity, abs=1e-9)
    assert float(after.sum()) == pytest.approx(float(before.sum()), rel=1e-6)
    unscaled = 1 - (1 - new * (-(x**2) / 2).exp()) ** number
    bound = min(0.11 * opacity, 0.4 * max_difference(before, unscaled))
    assert max_difference(before, after) < bound


def test_dead_gaussians_choose_live_ones_by_weight():
    weights = torch.tensor([0.1, 0.3, 0.0, 0.5] + [0.001] * 4000)
    dead = torch.tensor([True, False, False, False] + [True] * 4000)
    moved, target = choose_relocations(weights, dead, rng(1))
    assert moved.tolist() == [0, *range(4, 4004)]
    assert float((target == 1).double().mean()) == pytest.approx(0.3 / 0.8, abs=0.03)
    assert set(target.tolist()) == {1, 3}
    for all_or_none in (torch.zeros_like(dead), torch.ones_like(dead)):
        assert not len(choose_relocations(weights, all_or_none, rng(1))[0])


def test_only_the_state_of_moved_rows_is_reset():
    p = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.SGD([p], momentum=0.9)
    p.sum().backward()
    optimizer.step()
    reset_optimizer_state(optimizer, [p], torch.tensor([1]))
    assert optimizer.state[p]["momentum_buffer"].tolist() == [[1, 1], [0, 0], [1, 1]]
