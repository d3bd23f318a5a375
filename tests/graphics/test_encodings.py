"""What is known of points: encodings against closed forms, dense grids and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite import hermgauss

from limbeck.config.discovery import choices
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding, integrated_encoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.fields.encodings.triplane import TriplaneEncoding

FEW = HashGridEncoding(
    levels=4, log2_rows=9, coarsest=3, finest=24, spread=1.0
)  #: two levels with rows of their own, two hashed
EACH = [
    DenseGridEncoding(levels=(3, 8), spread=1.0), DenseGridEncoding(levels=(3, 8), spread=1.0, levels_are="joined"), TriplaneEncoding(levels=(4, 9), spread=1.0),
    TriplaneEncoding(levels=(4, 9), spread=1.0, planes_are="summed", levels_are="summed"), FEW, FrequencyEncoding(octaves=4),
]  # fmt: skip
TRILINEAR = torch.tensor([[0.3, -1.2, 0.7], [0.5, 0.25, -2.0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, generator=seeded(seed)) * 2 - 1


def filled(made: torch.nn.Module, function) -> torch.nn.Module:
    """Every level a function of the places of its points."""
    for level in made.levels:
        line = torch.linspace(-1, 1, len(level))
        place = torch.stack(
            torch.meshgrid(line, line, line, indexing="ij")[::-1], -1
        )  # x, y, z of [z, y, x]
        level.data = function(place)
    return made


def affine(place: torch.Tensor) -> torch.Tensor:
    return place @ TRILINEAR.t() + torch.tensor([0.1, -0.4])


def slope_error(
    made: torch.nn.Module, at: torch.Tensor, progress: float = 1.0, step: float = 1e-5
) -> float:
    """Largest difference of a gradient by the points from central differences, both in double precision."""
    made, at = made.double(), at.double().requires_grad_()
    weights = torch.randn(made.width, generator=seeded(5)).double()
    value = lambda place: made(place, progress) @ weights  # noqa: E731
    (slope,) = torch.autograd.grad(value(at).sum(), at)
    with torch.no_grad():
        moves = step * torch.eye(3, dtype=torch.float64)
        found = torch.stack(
            [(value(at + move) - value(at - move)) / (2 * step) for move in moves], 1
        )
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
    made, at = (
        filled(DenseGridEncoding(levels=sides, features=2).build(seeded()), affine),
        points(200),
    )
    assert torch.allclose(made(at, 1.0), len(sides) * affine(at), atol=4e-6)


def test_joined_levels_are_the_levels_one_after_another() -> None:
    at = points(50)
    joined, summed = (
        DenseGridEncoding(levels=(3, 6), features=2, levels_are=how).build(seeded())
        for how in ("joined", "summed")
    )
    assert joined.width == 4 and summed.width == 2
    assert torch.allclose(joined(at, 1.0).view(50, 2, 2).sum(1), summed(at, 1.0), atol=1e-6)


@pytest.mark.parametrize("spec", EACH, ids=str)
def test_gradients(spec: Encoding) -> None:
    made, at = spec.build(seeded()), points(64)
    assert made(at, 1.0).shape == (64, made.width)
    assert slope_error(made, at) < 1e-6
    if list(made.parameters()):
        assert parameter_error(made, at) < 1e-6


@pytest.mark.parametrize("spec", EACH, ids=str)
def test_what_lies_outside_is_brought_to_the_border(spec: Encoding) -> None:
    made = spec.build(seeded())
    out = torch.tensor([[1.7, 0.2, -3.0], [-1.1, -9.0, 0.0]])
    assert torch.equal(made(out, 1.0), made(out.clamp(-1, 1), 1.0))


@pytest.mark.parametrize("spec", EACH, ids=str)
def test_parameters_come_from_the_generator_and_load_bit_by_bit(spec: Encoding) -> None:
    before = torch.get_rng_state()
    one, same, other = (spec.build(seeded(s)) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    at = points(32)
    assert torch.equal(one(at, 0.3), same(at, 0.3))
    if list(other.parameters()):
        assert not torch.equal(one(at, 1.0), other(at, 1.0))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(at, 0.3), other(at, 0.3))


def test_an_encoding_is_found_by_its_name() -> None:
    assert choices(Encoding) == {
        "frequencies": FrequencyEncoding,
        "grid": DenseGridEncoding,
        "hashed": HashGridEncoding,
        "planes": TriplaneEncoding,
    }


def test_roughness_of_a_ramp_is_the_squared_step() -> None:
    """values a.p over n points a side: neighbours along an axis differ by 2 a_i / (n - 1)."""
    made = filled(DenseGridEncoding(levels=(5,), features=2).build(seeded()), affine)
    expected = (TRILINEAR * 2 / 4).square().mean(0).sum()
    assert torch.allclose(made.roughness(), expected, rtol=1e-5)


def filled_planes(
    spec: TriplaneEncoding,
) -> tuple[torch.nn.Module, list[tuple[float, float, float]]]:
    """Planes of one feature a u + b v + c each, and their a, b, c."""
    made, conditions = spec.build(seeded()), [(0.5, -1.0, 0.3), (2.0, 0.25, -0.1), (-0.7, 0.4, 1.1)]
    for level in made.levels:
        v, u = torch.meshgrid(*(torch.linspace(-1, 1, level.shape[-1]),) * 2, indexing="ij")
        level.data = torch.stack([a * u + b * v + c for a, b, c in conditions])[:, None]
    return made, conditions


def test_planes_reproduce_affine_functions_of_xy_xz_and_yz_and_their_product() -> None:
    at = points(100)
    x, y, z = at.unbind(1)
    for how in ("summed", "multiplied"):
        made, conditions = filled_planes(TriplaneEncoding(levels=(7,), features=1, planes_are=how))
        parts = [
            a * u + b * v + c
            for (a, b, c), (u, v) in zip(conditions, ((x, y), (x, z), (y, z)), strict=True)
        ]
        expected = sum(parts) if how == "summed" else math.prod(parts)
        assert torch.allclose(made(at, 1.0)[:, 0], expected, atol=2e-6)


def test_roughness_of_planes_is_the_squared_step() -> None:
    made, conditions = filled_planes(TriplaneEncoding(levels=(5,), features=1))
    expected = sum((a / 2) ** 2 + (b / 2) ** 2 for a, b, _ in conditions) / 3
    assert made.roughness().item() == pytest.approx(expected, rel=1e-5)


def test_waves_have_no_neighbours() -> None:
    assert (
        FrequencyEncoding().build(seeded()).roughness()
        == 0
        == HashGridEncoding(levels=1).build(seeded()).roughness()
    )


def test_levels_of_a_hash_shorter_than_the_table_are_dense_grids() -> None:
    spec = HashGridEncoding(
        levels=3, features=2, log2_rows=12, coarsest=3, finest=12, smooth=False, spread=1.0
    )
    assert spec.sides == (3, 6, 12)
    made, at = spec.build(seeded()), points(300)
    grid = DenseGridEncoding(levels=(4, 7, 13), features=2, levels_are="joined").build(seeded())
    for level, table, side in zip(grid.levels, made.tables, (4, 7, 13), strict=True):
        assert len(table) == side**3
        level.data = table.data.view(side, side, side, 2)
    assert torch.allclose(made(at, 1.0), grid(at, 1.0), atol=2e-6)


def test_every_corner_of_a_short_level_has_a_row_of_its_own() -> None:
    made = FEW.build(seeded())
    side = FEW.sides[1]
    line = torch.arange(side)
    corner = torch.stack(
        [axis.flatten() for axis in torch.meshgrid(line, line, line, indexing="ij")]
    )
    rows = made.rows(1, corner)
    places = (
        corner[:, None]
        + torch.tensor([[n & 1, n >> 1 & 1, n >> 2 & 1] for n in range(8)]).t()[:, :, None]
    )
    pairs = set(
        zip(rows.flatten().tolist(), map(tuple, places.flatten(1).t().tolist()), strict=True)
    )
    assert len(pairs) == len({row for row, _ in pairs}) == (side + 1) ** 3


def test_rows_of_a_long_level_are_the_papers_hash() -> None:
    made = HashGridEncoding(log2_rows=19).build(seeded())
    assert [len(t) for t in made.tables][-1] == 2**19
    corner = torch.tensor([[3, 2000], [1999, 7], [512, 1023]])
    rows = made.rows(15, corner)
    for k in range(2):
        for n in range(8):
            x, y, z = (int(corner[i, k]) + (n >> i & 1) for i in range(3))
            assert rows[n, k] == (x ^ (y * 2_654_435_761) ^ (z * 805_459_861)) % 2**19


def test_the_papers_levels() -> None:
    sides = HashGridEncoding().sides
    assert len(sides) == 16 and sides[0] == 16 and sides[-1] == 2048
    assert all(n == math.floor(16 * 128 ** (k / 15) + 1e-6) for k, n in enumerate(sides))
    assert [n + 1 for n in sides if (n + 1) ** 3 <= 2**19][
        -1
    ] == 59  # the first five levels need no hash


def slopes(made: torch.nn.Module, x: float) -> torch.Tensor:
    at = torch.tensor([[x, 0.31, -0.2]], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(made.double()(at, 1.0).sum(), at)[0][0, 0]


def test_a_smooth_step_has_no_jump_of_the_slope_between_cells() -> None:
    """The face between two cells of eight lies at x = 1/4; linear weights have a kink there, smooth ones a level spot."""
    spec = HashGridEncoding(levels=1, coarsest=8, finest=8, spread=1.0)
    linear, smooth = (
        HashGridEncoding(**{**vars(spec), "smooth": flag}).build(seeded()) for flag in (False, True)
    )
    assert (slopes(linear, 0.25 - 1e-6) - slopes(linear, 0.25 + 1e-6)).abs() > 0.1
    assert slopes(smooth, 0.25 - 1e-6).abs() < 1e-3 and slopes(smooth, 0.25 + 1e-6).abs() < 1e-3


def test_second_derivatives_of_a_smooth_hash_reach_its_tables() -> None:
    """What a term on normals needs."""
    made = FEW.build(seeded()).double()
    at = points(16).double().requires_grad_()
    (slope,) = torch.autograd.grad(made(at, 1.0).sum(), at, create_graph=True)
    loss = slope.square().sum()
    way = torch.randn(made.tables[2].shape, generator=seeded(3)).double()
    expected = (torch.autograd.grad(loss, made.tables[2])[0] * way).sum()
    found = []
    for sign in (1, -2):
        made.tables[2].data += sign * 1e-4 * way
        (slope,) = torch.autograd.grad(made(at, 1.0).sum(), at)
        found.append(slope.square().sum())
    assert (found[0] - found[1]).item() / 2e-4 == pytest.approx(expected.item(), rel=1e-6)


def test_bands_open_one_after_another() -> None:
    spec = HashGridEncoding(begin=8)
    assert [spec.open_at(p) for p in (0, 0.079, 0.08, 0.0999, 0.1, 0.12, 0.2, 0.219, 0.22, 1)] == [
        8,
        8,
        9,
        9,
        10,
        11,
        15,
        15,
        16,
        16,
    ]
    assert HashGridEncoding().open_at(0) == 16 and HashGridEncoding(begin=16).open_at(0) == 16


def test_a_closed_level_is_zero_and_gets_no_gradient() -> None:
    spec = HashGridEncoding(**{**vars(FEW), "begin": 2, "opening": (0.5, 0.5)})
    made, at = spec.build(seeded()), points(20)
    early, late = made(at, 0.4), made(at, 0.5)
    assert early.shape == late.shape and torch.equal(early[:, :4], late[:, :4])
    assert not early[:, 4:].any() and late[:, 4:].all()
    early.sum().backward()
    assert [table.grad is None for table in made.tables] == [False, False, True, True]


def test_waves_of_no_variance_are_a_positional_encoding() -> None:
    at = points(10).double()
    found = integrated_encoding(at, 5)
    turned = [2**k * at for k in range(5)]
    assert torch.allclose(
        found, torch.cat([a.sin() for a in turned] + [a.cos() for a in turned], 1), atol=1e-14
    )


@pytest.mark.parametrize("variance", [0.002, 0.05, 0.3])
def test_waves_are_the_mean_over_a_gaussian(variance: float) -> None:
    """E[sin 2^l x] and E[cos 2^l x] by Gauss-Hermite quadrature."""
    at = points(6).double()
    nodes, weights = (torch.from_numpy(part) for part in hermgauss(80))
    drawn = at[None] + math.sqrt(2 * variance) * nodes[:, None, None]
    mean = sum(
        w * integrated_encoding(x, 4) for w, x in zip(weights / np.sqrt(np.pi), drawn, strict=True)
    )
    assert torch.allclose(integrated_encoding(at, 4, variance), mean, atol=1e-10)


def test_the_variance_falls_over_a_third_of_the_run() -> None:
    spec = FrequencyEncoding()
    assert [spec.variance(p) for p in (0, 1 / 6, 1 / 3, 0.9)] == pytest.approx(
        [0.05, 0.026, 0.002, 0.002]
    )
    made, at = spec.build(seeded()), points(4)
    assert made.width == 48
    assert torch.allclose(made(at, 1 / 6), integrated_encoding(at, 8, 0.026), atol=1e-7)
    assert FrequencyEncoding(until=0.0).variance(0) == 0.002


@pytest.mark.parametrize(("make", "named"), [
    (lambda: DenseGridEncoding(levels=()), "levels"), (lambda: DenseGridEncoding(levels=(8, 1)), r"levels .*at least 2.*\(8, 1\)"),
    (lambda: DenseGridEncoding(features=0), "features .*at least 1.*0"), (lambda: DenseGridEncoding(spread=-1.0), "spread .*-1"),
    (lambda: DenseGridEncoding(levels_are="mixed"), "levels_are is one of summed, joined, not 'mixed'"),
    (lambda: TriplaneEncoding(levels=(1,)), r"levels .*at least 2.*\(1,\)"), (lambda: TriplaneEncoding(features=-2), "features .*-2"),
    (lambda: TriplaneEncoding(planes_are="added"), "planes_are is one of summed, multiplied, not 'added'"),
    (lambda: TriplaneEncoding(levels_are="mixed"), "levels_are .*'mixed'"), (lambda: TriplaneEncoding(spread=-0.1), "spread .*-0.1"),
    (lambda: HashGridEncoding(levels=0), r"levels must be in \[1, 32\], not 0"), (lambda: HashGridEncoding(features=99), "features .*99"),
    (lambda: HashGridEncoding(log2_rows=30), r"log2_rows must be in \[4, 24\], not 30"), (lambda: HashGridEncoding(begin=17), r"begin .*\[0, 16\].*17"),
    (lambda: HashGridEncoding(coarsest=64, finest=32), "coarsest <= finest .*64 and 32"), (lambda: HashGridEncoding(spread=-1.0), "spread .*-1"),
    (lambda: HashGridEncoding(opening=(0.5, 0.2)), "opening .*0.5 0.2"), (lambda: FrequencyEncoding(octaves=0), r"octaves .*\[1, 20\].*0"),
    (lambda: FrequencyEncoding(first=-0.1), "first and last .*-0.1"), (lambda: FrequencyEncoding(until=2.0), r"until .*\[0, 1\], not 2"),
])  # fmt: skip
def test_bad_options_are_named(make, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
