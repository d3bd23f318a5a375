"""What is known of points: encodings against closed forms, dense grids and finite differences."""

from __future__ import annotations

import pytest
import torch

from limbeck.encodings import Grid

TRILINEAR = torch.tensor([[0.3, -1.2, 0.7], [0.5, 0.25, -2.0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, generator=seeded(seed)) * 2 - 1


def filled(made: torch.nn.Module, function) -> torch.nn.Module:
    """Every level a function of the places of its points."""
    for level in made.levels:
        line = torch.linspace(-1, 1, len(level))
        place = torch.stack(torch.meshgrid(line, line, line, indexing="ij")[::-1], -1)  # x, y, z of [z, y, x]
        level.data = function(place)
    return made


def affine(place: torch.Tensor) -> torch.Tensor:
    return place @ TRILINEAR.t() + torch.tensor([0.1, -0.4])


def slope_error(made: torch.nn.Module, at: torch.Tensor, progress: float = 1.0, step: float = 1e-5) -> float:
    """Largest difference of a gradient by the points from central differences, both in double precision."""
    made, at = made.double(), at.double().requires_grad_()
    weights = torch.randn(made.width, generator=seeded(5)).double()
    value = lambda place: made(place, progress) @ weights  # noqa: E731
    (slope,) = torch.autograd.grad(value(at).sum(), at)
    with torch.no_grad():
        moves = step * torch.eye(3, dtype=torch.float64)
        found = torch.stack([(value(at + move) - value(at - move)) / (2 * step) for move in moves], 1)
    return float((slope - found).abs().max())


def parameter_error(made: torch.nn.Module, at: torch.Tensor, step: float = 1e-4) -> float:
    """The same by a random direction in the space of all parameters, which the features need not be linear in."""
    made, at = made.double(), at.double()
    rng = seeded(6)
    weights = torch.randn(len(at), made.width, generator=rng).double()
    ways = [torch.randn(p.shape, generator=rng).double() for p in made.parameters()]
    value = lambda: (made(at, 1.0) * weights).sum()  # noqa: E731
    slopes = torch.autograd.grad(value(), list(made.parameters()))
    expected = sum(float((s * w).sum()) for s, w in zip(slopes, ways, strict=True))
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, w in zip(made.parameters(), ways, strict=True):
                p += sign * step * w
            ends.append(float(value()))
    return abs((ends[0] - ends[1]) / (2 * step) - expected) / max(abs(expected), 1)


@pytest.mark.parametrize("sides", [(2,), (5,), (16,), (3, 7)])
def test_a_grid_reproduces_affine_functions_exactly(sides: tuple[int, ...]) -> None:
    made, at = filled(Grid(levels=sides, features=2).build(seeded()), affine), points(200)
    assert torch.allclose(made(at, 1.0), len(sides) * affine(at), atol=4e-6)


def test_joined_levels_are_the_levels_one_after_another() -> None:
    at = points(50)
    joined, summed = (Grid(levels=(3, 6), features=2, levels_are=how).build(seeded()) for how in ("joined", "summed"))
    assert joined.width == 4 and summed.width == 2
    assert torch.allclose(joined(at, 1.0).view(50, 2, 2).sum(1), summed(at, 1.0), atol=1e-6)


def test_a_grid_holds_its_border_outside() -> None:
    made = Grid(levels=(4,)).build(seeded())
    out = torch.tensor([[1.7, 0.2, -3.0], [-1.1, -9.0, 0.0]])
    assert torch.equal(made(out, 1.0), made(out.clamp(-1, 1), 1.0))


def test_gradients_of_a_grid() -> None:
    made = Grid(levels=(3, 8), spread=1.0).build(seeded())
    assert slope_error(made, points(64)) < 1e-8
    assert parameter_error(made, points(64)) < 1e-8


def test_roughness_of_a_ramp_is_the_squared_step() -> None:
    """values a.p over n points a side: neighbours along an axis differ by 2 a_i / (n - 1)."""
    made = filled(Grid(levels=(5,), features=2).build(seeded()), affine)
    expected = (TRILINEAR * 2 / 4).square().mean(0).sum()
    assert torch.allclose(made.roughness(), expected, rtol=1e-5)


@pytest.mark.parametrize(("make", "named"), [
    (lambda: Grid(levels=()), "levels"), (lambda: Grid(levels=(8, 1)), r"levels .*at least 2.*\(8, 1\)"),
    (lambda: Grid(features=0), "features .*at least 1.*0"), (lambda: Grid(spread=-1.0), "spread .*-1"),
    (lambda: Grid(levels_are="mixed"), "levels_are is one of summed, joined, not 'mixed'"),
])  # fmt: skip
def test_bad_options_are_named(make, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
