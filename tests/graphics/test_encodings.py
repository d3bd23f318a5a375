"""Encodings against closed forms, dense grids and finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite import hermgauss

from limbeck.config.discovery import choices
from limbeck.graphics.fields.encodings.base import (
    Encoding,
    EncodingModule,
    mean_squared_difference,
)
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import (
    FrequencyEncoding,
    integrated_positional_encoding,
)
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.fields.encodings.triplane import TriplaneEncoding

#: Two dense levels, two hashed ones.
SMALL_HASH = HashGridEncoding(
    num_levels=4, log2_hashmap_size=9, base_resolution=3, max_resolution=24, init_scale=1.0
)
DENSE, TRIPLANE = (
    DenseGridEncoding(resolutions=(3, 8), init_std=1.0),
    TriplaneEncoding(resolutions=(4, 9), init_std=1.0),
)
ENCODINGS = {
    "dense-sum": DENSE,
    "dense-concat": replace(DENSE, level_reduce="concat"),
    "triplane-product": TRIPLANE,
    "triplane-sum": replace(TRIPLANE, plane_reduce="sum", level_reduce="sum"),
    "hash": SMALL_HASH,
    "frequency": FrequencyEncoding(num_frequencies=4),
}
every_encoding = pytest.mark.parametrize("spec", ENCODINGS.values(), ids=ENCODINGS)
SLOPES = torch.tensor([[0.3, -1.2, 0.7], [0.5, 0.25, -2.0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_points(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, generator=seeded(seed)) * 2 - 1


def fill_grid(module: EncodingModule, function) -> EncodingModule:
    """Set every level of a dense grid to a function of the positions of its points."""
    for level in module.levels:
        line = torch.linspace(-1, 1, len(level))
        zyx = torch.meshgrid(line, line, line, indexing="ij")
        level.data = function(torch.stack(zyx[::-1], -1))
    return module


def affine(points: torch.Tensor) -> torch.Tensor:
    return points @ SLOPES.t() + torch.tensor([0.1, -0.4])


def point_gradient_error(module: EncodingModule, points: torch.Tensor, step=1e-5) -> float:
    """Largest difference of the gradient by points from central differences, in float64."""
    module, points = module.double(), points.double().requires_grad_()
    weights = torch.randn(module.num_features, generator=seeded(5)).double()

    def value(at):
        return module(at, 1.0) @ weights

    (gradient,) = torch.autograd.grad(value(points).sum(), points)
    with torch.no_grad():
        moves = step * torch.eye(3, dtype=torch.float64)
        differences = [(value(points + move) - value(points - move)) / (2 * step) for move in moves]
    return float((gradient - torch.stack(differences, 1)).abs().max())


def parameter_gradient_error(module: EncodingModule, points: torch.Tensor, step=1e-4) -> float:
    """Error of the directional derivative along a random direction of all parameters."""
    module, points, rng = module.double(), points.double(), seeded(6)
    weights = torch.randn(len(points), module.num_features, generator=rng).double()
    parameters = list(module.parameters())
    direction = [torch.randn(p.shape, generator=rng).double() for p in parameters]

    def value():
        return (module(points, 1.0) * weights).sum()

    gradients = torch.autograd.grad(value(), parameters)
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
            values.append(float(value()))
    return abs((values[0] - values[1]) / (2 * step) - expected) / max(abs(expected), 1)


def test_encodings_are_found_by_name() -> None:
    assert choices(Encoding) == {
        "frequency": FrequencyEncoding,
        "dense-grid": DenseGridEncoding,
        "hash-grid": HashGridEncoding,
        "triplane": TriplaneEncoding,
    }


# all encodings


@every_encoding
def test_gradients(spec: Encoding) -> None:
    module, points = spec.build(seeded()), random_points(64)
    assert module(points, 1.0).shape == (64, module.num_features)
    assert point_gradient_error(module, points) < 1e-6
    if list(module.parameters()):
        assert parameter_gradient_error(module, points) < 1e-6


@every_encoding
def test_points_outside_are_clamped_to_the_box(spec: Encoding) -> None:
    module = spec.build(seeded())
    outside = torch.tensor([[1.7, 0.2, -3.0], [-1.1, -9.0, 0.0]])
    assert torch.equal(module(outside, 1.0), module(outside.clamp(-1, 1), 1.0))


@every_encoding
def test_parameters_come_from_the_generator_and_load_bit_for_bit(spec: Encoding) -> None:
    before = torch.get_rng_state()
    module, same, other = (spec.build(seeded(s)) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    points = random_points(32)
    assert torch.equal(module(points, 0.3), same(points, 0.3))
    if list(other.parameters()):
        assert not torch.equal(module(points, 1.0), other(points, 1.0))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(points, 0.3), other(points, 0.3))


def test_frequencies_and_hashes_have_no_total_variation() -> None:
    for spec in (FrequencyEncoding(), HashGridEncoding(num_levels=1)):
        assert spec.build(seeded()).total_variation() == 0


# dense grids


@pytest.mark.parametrize("resolutions", [(2,), (5,), (16,), (3, 7)])
def test_a_dense_grid_reproduces_affine_functions(resolutions: tuple[int, ...]) -> None:
    spec = DenseGridEncoding(resolutions=resolutions, features_per_level=2)
    module, points = fill_grid(spec.build(seeded()), affine), random_points(200)
    assert torch.allclose(module(points, 1.0), len(resolutions) * affine(points), atol=4e-6)


def test_levels_are_added_or_concatenated() -> None:
    points = random_points(50)
    spec = DenseGridEncoding(resolutions=(3, 6), features_per_level=2)
    added = spec.build(seeded())
    concatenated = replace(spec, level_reduce="concat").build(seeded())
    assert concatenated.num_features == 4 and added.num_features == 2
    levels = concatenated(points, 1.0).view(50, 2, 2)
    assert torch.allclose(levels.sum(1), added(points, 1.0), atol=1e-6)


def test_total_variation_of_a_ramp_is_the_squared_step() -> None:
    """For values a . p over n points along a side, neighbors differ by 2 a_i / (n - 1)."""
    spec = DenseGridEncoding(resolutions=(5,), features_per_level=2)
    module = fill_grid(spec.build(seeded()), affine)
    expected = (SLOPES * 2 / 4).square().mean(0).sum()
    assert torch.allclose(module.total_variation(), expected, rtol=1e-5)


@pytest.mark.parametrize("side", [2, 5, 12])
def test_a_look_up_on_the_cpu_equals_grid_sample(side: int) -> None:
    """Values and gradients, for points inside, on the faces and outside of the box."""
    spec = DenseGridEncoding(resolutions=(side,), features_per_level=3, init_std=1.0)
    module = spec.build(seeded()).double()
    level = module.levels[0]
    points = 1.3 * random_points(40_000).double()  # more than one chunk
    points[:8] = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    table = level.permute(3, 0, 1, 2)[None]
    expected = torch.nn.functional.grid_sample(
        table, points[None, :, None, None], align_corners=True, padding_mode="border"
    )[0, :, :, 0, 0].t()
    features = module(points, 1.0)
    assert torch.allclose(features, expected, rtol=0, atol=1e-12)
    weight = torch.randn(features.shape, generator=seeded(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((features * weight).sum(), level)
    (exact,) = torch.autograd.grad((expected * weight).sum(), level)
    assert torch.allclose(gradient, exact, rtol=1e-11, atol=1e-11)
    assert module(points[:0], 1.0).shape == (0, 3)


def test_points_of_a_dense_grid_have_a_gradient_too() -> None:
    module = DenseGridEncoding(resolutions=(4,), init_std=1.0).build(seeded())
    points = random_points(5).requires_grad_()
    module(points, 1.0).sum().backward()
    assert points.grad is not None and points.grad.abs().min() > 0


@pytest.mark.parametrize("axes", [(0, 1, 2), (1,)])
def test_the_gradient_of_total_variation_is_that_of_its_formula(axes: tuple[int, ...]) -> None:
    values = torch.randn(4, 5, 3, 2, generator=seeded(), dtype=torch.float64, requires_grad=True)
    formula = sum(values.diff(dim=axis).square().mean() for axis in axes)
    total = mean_squared_difference(values, axes)
    assert torch.allclose(total, formula, rtol=1e-12)
    ((gradient,), (exact,)) = (torch.autograd.grad(3 * x, values) for x in (total, formula))
    assert torch.allclose(gradient, exact, rtol=1e-12)


# triplanes

PLANES = [(0.5, -1.0, 0.3), (2.0, 0.25, -0.1), (-0.7, 0.4, 1.1)]  #: a, b, c of a u + b v + c


def fill_planes(spec: TriplaneEncoding) -> EncodingModule:
    """Planes of one feature a u + b v + c each."""
    module = spec.build(seeded())
    for level in module.levels:
        v, u = torch.meshgrid(*(torch.linspace(-1, 1, level.shape[-1]),) * 2, indexing="ij")
        level.data = torch.stack([a * u + b * v + c for a, b, c in PLANES])[:, None]
    return module


@pytest.mark.parametrize(("plane_reduce", "reduce"), [("sum", sum), ("product", math.prod)])
def test_planes_reproduce_affine_functions_of_xy_xz_and_yz(plane_reduce: str, reduce) -> None:
    points = random_points(100)
    x, y, z = points.unbind(1)
    spec = TriplaneEncoding(resolutions=(7,), features_per_level=1, plane_reduce=plane_reduce)
    coordinates = ((x, y), (x, z), (y, z))
    planes = [a * u + b * v + c for (a, b, c), (u, v) in zip(PLANES, coordinates, strict=True)]
    features = fill_planes(spec)(points, 1.0)[:, 0]
    assert torch.allclose(features, reduce(planes), atol=2e-6)


def test_total_variation_of_planes_is_the_squared_step() -> None:
    module = fill_planes(TriplaneEncoding(resolutions=(5,), features_per_level=1))
    expected = sum((a / 2) ** 2 + (b / 2) ** 2 for a, b, _ in PLANES) / 3
    assert module.total_variation().item() == pytest.approx(expected, rel=1e-5)


# hash grids


def test_levels_smaller_than_the_table_are_dense_grids() -> None:
    spec = HashGridEncoding(
        num_levels=3,
        features_per_level=2,
        log2_hashmap_size=12,
        base_resolution=3,
        max_resolution=12,
        smoothstep=False,
        init_scale=1.0,
    )
    assert spec.resolutions == (3, 6, 12)
    module, points = spec.build(seeded()), random_points(300)
    grid = DenseGridEncoding(resolutions=(4, 7, 13), features_per_level=2, level_reduce="concat")
    dense = grid.build(seeded())
    for level, table, side in zip(dense.levels, module.tables, (4, 7, 13), strict=True):
        assert len(table) == side**3
        level.data = table.data.view(side, side, side, 2)
    assert torch.allclose(module(points, 1.0), dense(points, 1.0), atol=2e-6)


def test_every_corner_of_a_dense_level_has_its_own_row() -> None:
    module = SMALL_HASH.build(seeded())
    side = SMALL_HASH.resolutions[1]
    line = torch.arange(side)
    grid = torch.meshgrid(line, line, line, indexing="ij")
    corner = torch.stack([axis.flatten() for axis in grid])
    rows = module.hash_indices(1, corner).flatten().tolist()
    offsets = torch.tensor([[n & 1, n >> 1 & 1, n >> 2 & 1] for n in range(8)]).t()
    positions = (corner[:, None] + offsets[:, :, None]).flatten(1).t().tolist()
    pairs = set(zip(rows, map(tuple, positions), strict=True))
    assert len(pairs) == len({row for row, _ in pairs}) == (side + 1) ** 3


def test_rows_of_a_hashed_level_are_the_papers_hash() -> None:
    module = HashGridEncoding(log2_hashmap_size=19).build(seeded())
    assert len(module.tables[-1]) == 2**19
    corner = torch.tensor([[3, 2000], [1999, 7], [512, 1023]])
    rows = module.hash_indices(15, corner)
    for k in range(2):
        for n in range(8):
            x, y, z = (int(corner[i, k]) + (n >> i & 1) for i in range(3))
            assert rows[n, k] == (x ^ (y * 2_654_435_761) ^ (z * 805_459_861)) % 2**19


def test_the_papers_resolutions() -> None:
    resolutions = HashGridEncoding().resolutions
    assert len(resolutions) == 16 and resolutions[0] == 16 and resolutions[-1] == 2048
    assert all(n == math.floor(16 * 128 ** (k / 15) + 1e-6) for k, n in enumerate(resolutions))
    dense = [n + 1 for n in resolutions if (n + 1) ** 3 <= 2**19]
    assert dense[-1] == 59  # the first five levels need no hash


def slope_at(module: EncodingModule, x: float) -> torch.Tensor:
    point = torch.tensor([[x, 0.31, -0.2]], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(module.double()(point, 1.0).sum(), point)[0][0, 0]


def test_smoothstep_makes_the_slope_continuous_between_cells() -> None:
    """The face between two cells of eight lies at x = 1/4: linear weights have a kink there."""
    spec = HashGridEncoding(num_levels=1, base_resolution=8, max_resolution=8, init_scale=1.0)
    linear, smooth = (replace(spec, smoothstep=flag).build(seeded()) for flag in (False, True))
    below, above = 0.25 - 1e-6, 0.25 + 1e-6
    assert (slope_at(linear, below) - slope_at(linear, above)).abs() > 0.1
    assert slope_at(smooth, below).abs() < 1e-3 and slope_at(smooth, above).abs() < 1e-3


def test_second_derivatives_of_a_smooth_hash_reach_its_tables() -> None:
    """A regularizer of normals needs them."""
    module = SMALL_HASH.build(seeded()).double()
    points = random_points(16).double().requires_grad_()
    (gradient,) = torch.autograd.grad(module(points, 1.0).sum(), points, create_graph=True)
    table = module.tables[2]
    direction = torch.randn(table.shape, generator=seeded(3)).double()
    (table_gradient,) = torch.autograd.grad(gradient.square().sum(), table)
    expected = (table_gradient * direction).sum()
    values = []
    for sign in (1, -2):
        table.data += sign * 1e-4 * direction
        (gradient,) = torch.autograd.grad(module(points, 1.0).sum(), points)
        values.append(gradient.square().sum())
    found = (values[0] - values[1]).item() / 2e-4
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_levels_become_active_one_after_another() -> None:
    spec = HashGridEncoding(initial_levels=8)
    active = {
        0: 8,
        0.079: 8,
        0.08: 9,
        0.0999: 9,
        0.1: 10,
        0.12: 11,
        0.2: 15,
        0.219: 15,
        0.22: 16,
        1: 16,
    }
    assert {progress: spec.active_levels(progress) for progress in active} == active
    assert HashGridEncoding().active_levels(0) == 16
    assert HashGridEncoding(initial_levels=16).active_levels(0) == 16


def test_an_inactive_level_is_zero_and_gets_no_gradient() -> None:
    spec = replace(SMALL_HASH, initial_levels=2, level_schedule=(0.5, 0.5))
    module, points = spec.build(seeded()), random_points(20)
    early, late = module(points, 0.4), module(points, 0.5)
    assert early.shape == late.shape and torch.equal(early[:, :4], late[:, :4])
    assert not early[:, 4:].any() and late[:, 4:].all()
    early.sum().backward()
    assert [table.grad is None for table in module.tables] == [False, False, True, True]


# frequencies


def test_without_variance_it_is_a_positional_encoding() -> None:
    points = random_points(10).double()
    angles = [2**k * points for k in range(5)]
    expected = torch.cat([a.sin() for a in angles] + [a.cos() for a in angles], 1)
    assert torch.allclose(integrated_positional_encoding(points, 5), expected, atol=1e-14)


@pytest.mark.parametrize("variance", [0.002, 0.05, 0.3])
def test_it_is_the_mean_over_a_gaussian(variance: float) -> None:
    """E[sin 2^l x] and E[cos 2^l x] by Gauss-Hermite quadrature."""
    points = random_points(6).double()
    nodes, weights = (torch.from_numpy(part) for part in hermgauss(80))
    samples = points[None] + math.sqrt(2 * variance) * nodes[:, None, None]
    terms = zip(weights / np.sqrt(np.pi), samples, strict=True)
    mean = sum(w * integrated_positional_encoding(x, 4) for w, x in terms)
    assert torch.allclose(integrated_positional_encoding(points, 4, variance), mean, atol=1e-10)


def test_the_variance_falls_over_a_third_of_training() -> None:
    spec = FrequencyEncoding()
    variances = [spec.variance(p) for p in (0, 1 / 6, 1 / 3, 0.9)]
    assert variances == pytest.approx([0.05, 0.026, 0.002, 0.002])
    module, points = spec.build(seeded()), random_points(4)
    assert module.num_features == 48
    expected = integrated_positional_encoding(points, 8, 0.026)
    assert torch.allclose(module(points, 1 / 6), expected, atol=1e-7)
    assert FrequencyEncoding(anneal_fraction=0.0).variance(0) == 0.002


# errors


@pytest.mark.parametrize(
    ("encoding", "options", "message"),
    [
        (DenseGridEncoding, {"resolutions": ()}, "resolutions"),
        (DenseGridEncoding, {"resolutions": (8, 1)}, r"resolutions .*at least 2.*\(8, 1\)"),
        (DenseGridEncoding, {"features_per_level": 0}, "features_per_level .*at least 1.*0"),
        (DenseGridEncoding, {"init_std": -1.0}, "init_std .*-1"),
        (DenseGridEncoding, {"level_reduce": "mean"}, "one of sum, concat, not 'mean'"),
        (TriplaneEncoding, {"resolutions": (1,)}, r"resolutions .*at least 2.*\(1,\)"),
        (TriplaneEncoding, {"features_per_level": -2}, "features_per_level .*-2"),
        (TriplaneEncoding, {"plane_reduce": "mean"}, "one of sum, product, not 'mean'"),
        (TriplaneEncoding, {"level_reduce": "mean"}, "level_reduce .*'mean'"),
        (TriplaneEncoding, {"init_std": -0.1}, "init_std .*-0.1"),
        (HashGridEncoding, {"num_levels": 0}, r"num_levels must be in \[1, 32\], not 0"),
        (HashGridEncoding, {"features_per_level": 99}, "features_per_level .*99"),
        (HashGridEncoding, {"log2_hashmap_size": 30}, r"log2_hashmap_size .*\[4, 24\], not 30"),
        (HashGridEncoding, {"initial_levels": 17}, r"initial_levels .*\[0, 16\].*17"),
        (
            HashGridEncoding,
            {"base_resolution": 64, "max_resolution": 32},
            "base_resolution <= max_resolution .*64 and 32",
        ),
        (HashGridEncoding, {"init_scale": -1.0}, "init_scale .*-1"),
        (HashGridEncoding, {"level_schedule": (0.5, 0.2)}, "level_schedule .*0.5 0.2"),
        (FrequencyEncoding, {"num_frequencies": 0}, r"num_frequencies .*\[1, 20\].*0"),
        (FrequencyEncoding, {"initial_variance": -0.1}, "initial_variance .*-0.1"),
        (FrequencyEncoding, {"anneal_fraction": 2.0}, r"anneal_fraction .*\[0, 1\], not 2"),
    ],
)
def test_bad_options_are_refused(encoding: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoding(**options)


def test_a_dense_grid_of_no_points_has_no_features():
    module = DenseGridEncoding(resolutions=(4, 8)).build(seeded())
    points = torch.zeros(0, 3)
    assert module(points).shape == (0, 4)
    with torch.no_grad():
        assert module(points).shape == (0, 4)
