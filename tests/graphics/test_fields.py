"""What a field is made of beside its encoding: decoders, blobs, backgrounds, occupied cells and importance samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from limbeck.config.discovery import choices
from limbeck.graphics.fields.background import (
    Background,
    EnvironmentBackground,
    RandomBackground,
    SolidBackground,
)
from limbeck.graphics.fields.decoders import Decoder, IdentityDecoder, MLPDecoder, ResidualDecoder
from limbeck.graphics.fields.density_init import (
    DensityInit,
    GaussianDensityInit,
    Magic3DDensityInit,
    MixedDensityInit,
    NoDensityInit,
    SceneDensityInit,
)
from limbeck.graphics.rendering.occupancy_grid import Occupancy, evenly, finer, sample_pdf
from limbeck.world.background import WorldBackground


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def radii(*values: float) -> torch.Tensor:
    """Points of the diagonal at these distances from the origin."""
    return torch.tensor(values)[:, None] * torch.ones(3) / math.sqrt(3)


def test_components_are_found_by_name() -> None:
    assert set(choices(Decoder)) == {"plain", "small", "residual"}
    assert set(choices(DensityInit)) == {"nothing", "gaussian", "magic3d", "scene", "mixed"}
    assert set(choices(Background)) == {"solid", "random", "environment", "world"}


# Blobs


def test_blobs_are_the_papers_formulas() -> None:
    assert torch.allclose(
        GaussianDensityInit()(radii(0, 0.2, 0.4)),
        5 * torch.tensor([1, math.exp(-0.5), math.exp(-2)]),
    )
    assert torch.allclose(
        Magic3DDensityInit()(radii(0, 0.25, 0.5, 1)), torch.tensor([10.0, 5, 0, -10]), atol=1e-5
    )
    assert torch.allclose(
        SceneDensityInit()(radii(0, 1.25, 2.5, 5)), torch.tensor([-10.0, -5, 0, 10]), atol=1e-5
    )
    assert not NoDensityInit()(radii(0, 1)).any()


def test_the_mixed_blob_is_continuous_at_five_sixths() -> None:
    blob = MixedDensityInit()
    assert blob.border == pytest.approx(5 / 6)
    inner, outer = radii(0, 0.4, 0.83), radii(0.84, 2, 3)
    assert torch.equal(blob(inner), Magic3DDensityInit()(inner)) and torch.equal(
        blob(outer), SceneDensityInit()(outer)
    )
    near = blob(radii(5 / 6 - 1e-4, 5 / 6 + 1e-4))
    assert torch.allclose(near, torch.full((2,), -20 / 3), atol=3e-3)


@pytest.mark.parametrize("blob", [MixedDensityInit(4, 0.3, -2, 1.5), MixedDensityInit(1, 2, -7, 3)])
def test_any_mixed_blob_is_continuous(blob: MixedDensityInit) -> None:
    below, above = blob(radii(blob.border * (1 - 1e-5), blob.border * (1 + 1e-5)))
    assert below.item() == pytest.approx(above.item(), abs=1e-3)


# Decoders


def test_plain_takes_the_first_features_and_refuses_too_few() -> None:
    features = torch.randn(5, 6, generator=seeded())
    assert torch.equal(IdentityDecoder().build(6, seeded())(features), features[:, :4])
    assert torch.equal(IdentityDecoder().build(6, seeded(), outputs=5)(features), features[:, :5])
    with pytest.raises(ValueError, match="at least 4 features, not 3"):
        IdentityDecoder().build(3, seeded())


def test_small_is_one_hidden_layer() -> None:
    made, x = MLPDecoder(hidden=7).build(5, seeded()), torch.randn(9, 5, generator=seeded(1))
    first, _, last = made
    assert torch.allclose(
        made(x), (x @ first.weight.t() + first.bias).relu() @ last.weight.t() + last.bias, atol=1e-6
    )
    assert first.weight.shape == (7, 5) and last.weight.shape == (4, 7)


def test_residual_is_the_papers_network() -> None:
    made, x = ResidualDecoder().build(48, seeded()), torch.randn(20, 48, generator=seeded(1))
    assert sum(p.numel() for p in made.parameters()) == (49 + 5 * (2 + 2 * 129) + 2) * 128 + 129 * 4
    h = made[0](x)
    for block in made[1:6]:
        inner = F.layer_norm(h, (128,)) @ block.first.weight.t()
        h = h + (inner * inner.sigmoid()) @ block.second.weight.t()
    assert torch.allclose(made(x), F.layer_norm(h, (128,)) @ made[7].weight.t(), atol=1e-5)


@pytest.mark.parametrize("spec", [MLPDecoder(), ResidualDecoder(hidden=16, blocks=2)], ids=str)
def test_networks_come_from_the_generator_and_begin_near_nothing(spec: Decoder) -> None:
    before = torch.get_rng_state()
    one, same = (spec.build(12, seeded(3)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    x = torch.randn(500, 12, generator=seeded(1))
    assert torch.equal(one(x), same(x))
    assert one(x).std() < 0.3  # a density blob of 5 or 10 and a grey albedo are not drowned
    one(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in one.parameters())


# Backgrounds

RAYS = F.normalize(torch.randn(2, 3, 5, 3, generator=seeded(8)), dim=-1)  #: two views of 3 x 5


def test_a_solid_colour() -> None:
    made = SolidBackground(colour=(0.2, 0.4, 1.0)).build(seeded())
    assert not list(made.parameters()) and not made.state_dict()
    assert torch.equal(made(RAYS, seeded(), 0.1), torch.tensor([0.2, 0.4, 1.0]).expand(2, 3, 5, 3))


def test_a_learned_colour_begins_as_told_and_moves() -> None:
    made = SolidBackground(colour=(0.2, 0.4, 0.9), learned=True).build(seeded())
    seen = made(RAYS[0, 0])
    assert torch.allclose(seen, torch.tensor([0.2, 0.4, 0.9]).expand(5, 3), atol=1e-6)
    seen.sum().backward()
    assert torch.allclose(
        made.logit.grad, 5 * torch.tensor([0.2 * 0.8, 0.4 * 0.6, 0.9 * 0.1]), atol=1e-5
    )


def test_random_colours_are_one_per_view_as_often_as_asked_and_absent_from_looks() -> None:
    made = RandomBackground(chance=0.3, colour=(1.0, 0.5, 0.0)).build(seeded())
    conditions = torch.tensor([1.0, 0.5, 0.0])
    assert torch.equal(made(RAYS), conditions.expand(2, 3, 5, 3))
    many = made(RAYS[:1].expand(4000, 3, 5, 3), seeded(1))
    assert torch.equal(many, many[:, :1, :1].expand_as(many))
    drawn = (many[:, 0, 0] != conditions).any(1)
    assert abs(drawn.float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)
    colours = many[drawn, 0, 0]
    assert len(colours.unique(dim=0)) == len(colours)
    assert torch.allclose(colours.mean(0), torch.tensor(0.5), atol=4 * math.sqrt(1 / 12 / 1200))
    one = RandomBackground().build(seeded())(RAYS[0, 0], seeded(2))
    assert len(one.unique(dim=0)) == 1  # [n, 3] are directions of one view


def test_an_environment_is_a_network_of_the_encoded_direction() -> None:
    made = EnvironmentBackground().build(seeded())
    shapes = [
        tuple(layer.weight.shape) for layer in made.network if isinstance(layer, torch.nn.Linear)
    ]
    assert shapes == [(16, 27), (16, 16), (3, 16)]
    known = torch.cat(
        [RAYS, *(f(RAYS * 2**k) for k in range(4) for f in (torch.sin, torch.cos))], -1
    )
    assert torch.allclose(made(RAYS), made.network(known).sigmoid())
    made(RAYS, seeded()).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in made.parameters())


def test_an_environment_gives_way_to_flat_colours_later_in_the_run() -> None:
    made, rng = EnvironmentBackground(chance=1.0, after=0.2).build(seeded()), seeded(4)
    state = rng.get_state()
    assert torch.equal(made(RAYS, rng, 0.1), made(RAYS)) and torch.equal(state, rng.get_state())
    later = made(RAYS, rng, 0.2)
    assert torch.equal(later, later[:, :1, :1].expand_as(later)) and not torch.equal(
        later[0], later[1]
    )
    assert torch.equal(made(RAYS, None, 1.0), made(RAYS))


def test_the_worlds_backgrounds_are_those_of_the_world() -> None:
    from limbeck.world import scene

    sky, ground = torch.from_numpy(scene.SKY), torch.from_numpy(scene.GROUND)

    seen = WorldBackground(which=2).build(seeded())(RAYS, seeded())
    for row in range(3):
        k = (row + 0.5) / 3
        assert torch.allclose(seen[:, row], sky[2] * (1 - k) + ground[2] * k)
    drawn = WorldBackground().build(seeded())
    assert torch.equal(drawn(RAYS), WorldBackground(which=0).build(seeded())(RAYS))
    assert len(drawn(RAYS[:1].expand(200, 3, 5, 3), seeded(1))[:, 0, 0].unique(dim=0)) == 6
    with pytest.raises(ValueError, match=r"\[b, h, w, 3\], not \[5, 3\]"):
        drawn(RAYS[0, 0])


# Occupied cells


def test_a_cell_denser_than_the_threshold_is_never_dropped() -> None:
    """Any density that is constant within cells: what is dense is occupied after every update."""
    rng = seeded(1)
    grid = Occupancy(8, 1.5, threshold=0.5)
    assert grid.occupied.all()
    for _ in range(20):
        table = torch.rand(8, 8, 8, generator=rng).pow(8)
        grid.update(lambda points, table=table: table[tuple(grid.cell(points).unbind(1))], rng)
        assert grid.occupied[table > 0.5].all()
        assert (grid.mean >= table).all()


def test_a_sphere_is_never_cut_and_the_rest_is_dropped() -> None:
    """A cell that the sphere only grazes may be looked at beside it: its neighbour within the sphere keeps it."""
    grid, rng = Occupancy(24, 1.0), seeded(2)
    inside = lambda points: 10.0 * (points.norm(dim=1) < 0.5)  # noqa: E731
    for _ in range(5):
        grid.update(inside, rng)
        points = torch.rand(20_000, 3, generator=rng) * 2 - 1
        assert grid.holds(points[points.norm(dim=1) < 0.5]).all()
    far = points.norm(dim=1) > 0.5 + 2 * math.sqrt(3) / 12
    assert not grid.holds(points[far]).any()


def test_what_vanished_is_forgotten_at_the_rate_of_the_decay() -> None:
    grid, rng = Occupancy(4, 1.0, threshold=0.1, decay=0.5), seeded(3)
    grid.update(lambda points: torch.ones(len(points)), rng)
    for step in range(1, 5):
        grid.update(lambda points: torch.zeros(len(points)), rng)
        assert torch.allclose(grid.mean, torch.full((4, 4, 4), 0.5**step))
        assert bool(grid.occupied.all()) is (0.5**step > 0.1) and grid.share == (0.5**step > 0.1)


def test_cells_are_z_y_x_and_looked_at_within_themselves() -> None:
    grid = Occupancy(5, 2.0)
    assert grid.cell(torch.tensor([[-1.9, 0.0, 1.9], [9.0, -9.0, 0.1]])).tolist() == [
        [4, 2, 0],
        [2, 0, 4],
    ]
    seen = []
    grid.update(lambda points: seen.append(points) or points[:, 0].abs(), seeded(), chunk=50)
    assert [len(part) for part in seen] == [50, 50, 25]
    line = torch.arange(5)
    expected = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    assert torch.equal(grid.cell(torch.cat(seen)), expected)
    assert torch.equal(grid.mean.flatten(), torch.cat(seen)[:, 0].abs())


def test_an_occupancy_grid_resumes_bit_by_bit() -> None:
    step = lambda grid, n: grid.update(lambda p: (p.sum(1) - 1).clamp_min(0), seeded(n))  # noqa: E731
    whole, first, second = (Occupancy(6, 1.0, threshold=0.2) for _ in range(3))
    for n in range(6):
        step(whole, n)
        if n < 3:
            step(first, n)
    second.load_state_dict(first.state_dict())
    for n in range(3, 6):
        step(second, n)
    assert torch.equal(whole.mean, second.mean) and torch.equal(whole.occupied, second.occupied)
    assert 0 < whole.share < 1


# Importance samples


def test_the_distribution_function_is_inverted_exactly() -> None:
    """Weights 1, 0, 3 on parts of length 1, 1, 2: F is x / 4 to 1, flat to 2, then 1/4 + 3 (x - 2) / 8."""
    edges, weights = torch.tensor([[0.0, 1, 2, 4]]), torch.tensor([[1.0, 0, 3]])
    u = torch.tensor([[0.0, 0.125, 0.24, 0.25, 0.5, 0.75, 0.999]])
    expected = torch.where(u < 0.25, 4 * u, 2 + (u - 0.25) * 8 / 3)
    assert torch.allclose(sample_pdf(edges, weights, u), expected, atol=1e-5)


def test_any_distribution_function_is_inverted() -> None:
    rng = seeded(1)
    edges = torch.rand(50, 13, generator=rng).double().sort(1).values
    weights = torch.rand(50, 12, generator=rng).double() * (torch.rand(50, 12, generator=rng) < 0.7)
    u = torch.rand(50, 40, generator=rng).double()
    found = sample_pdf(edges, weights, u)
    share = weights / weights.sum(1, keepdim=True)
    covered = ((found[..., None] - edges[:, None, :-1]) / edges.diff(dim=1)[:, None]).clamp(0, 1)
    assert torch.allclose((covered * share[:, None]).sum(-1), u, atol=1e-9)


def test_rays_without_weight_are_sampled_evenly() -> None:
    u = evenly(1, 8, None)
    assert torch.allclose(
        sample_pdf(torch.tensor([[2.0, 3, 7]]), torch.zeros(1, 2), u), 2 + 5 * u, atol=1e-5
    )


def test_no_sample_lies_where_there_is_no_weight_not_even_at_the_ends() -> None:
    edges = torch.arange(6.0).expand(1000, 6)
    weights = torch.tensor([0.0, 0.3, 0, 0.1, 0]).expand(1000, 5)
    u = torch.cat(
        [evenly(1000, 64, seeded(2)), torch.tensor([[0.0, 1 - 2**-24]]).expand(1000, 2)], 1
    )
    part = sample_pdf(edges, weights, u)
    assert (((part >= 1) & (part <= 2)) | ((part >= 3) & (part <= 4))).all()


def test_samples_of_a_ray_are_one_in_each_part_and_uniform_over_rays() -> None:
    u = evenly(5000, 8, seeded(3))
    assert torch.equal((u * 8).long(), torch.arange(8).expand(5000, 8))
    assert torch.allclose((u * 8 % 1).mean(0), torch.tensor(0.5), atol=4 / math.sqrt(12 * 5000))
    assert torch.equal(evenly(2, 4, None), torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(2, 4))


def test_statistics_of_drawn_samples_are_those_of_the_density() -> None:
    """Mean and share per part of 200,000 samples; stratified ones stray less than independent ones, whose bound this is."""
    edges, weights = (
        torch.tensor([0.0, 0.5, 2, 3]).expand(2000, 4),
        torch.tensor([0.2, 0.5, 0.3]).expand(2000, 3),
    )
    found = sample_pdf(edges, weights, evenly(2000, 100, seeded(4))).flatten()
    shares = torch.stack(
        [((found >= a) & (found < b)).float().mean() for a, b in ((0, 0.5), (0.5, 2), (2, 3))]
    )
    assert torch.allclose(shares, torch.tensor([0.2, 0.5, 0.3]), atol=4 * 0.5 / math.sqrt(200_000))
    assert found.mean().item() == pytest.approx(
        0.2 * 0.25 + 0.5 * 1.25 + 0.3 * 2.5, abs=4 / math.sqrt(200_000)
    )


def test_finer_samples_keep_the_coarse_ones_in_order_and_gather_at_the_surface() -> None:
    places = torch.linspace(0, 1, 33).expand(7, 33)
    weights = torch.zeros(7, 33)
    weights[:, 20] = 1.0
    found = finer(places, weights.requires_grad_(), 32, seeded(5))
    assert found.shape == (7, 65) and not found.requires_grad
    assert (found.diff(dim=1) >= 0).all()
    assert all(set(places[0].tolist()) <= set(row.tolist()) for row in found)
    near = (found - 20 / 32).abs() <= 1 / 64
    assert (near.sum(1) == 33).all()  # all 32, and the coarse one in their midst


@pytest.mark.parametrize(("make", "named"), [
    (lambda: GaussianDensityInit(width=0.0), "width is a length above 0, not 0.0"), (lambda: Magic3DDensityInit(radius=-1.0), "radius .*-1"),
    (lambda: SceneDensityInit(radius=0.0), "radius .*0"), (lambda: MixedDensityInit(scene_radius=0.0), "scene_radius .*0"),
    (lambda: MixedDensityInit(height=-3.0), "above 0 .*-3.0 and -10"), (lambda: MLPDecoder(hidden=0), "hidden must be at least 1, not 0"),
    (lambda: ResidualDecoder(blocks=0), "blocks must be at least 1, not 0"), (lambda: ResidualDecoder(hidden=-1), "hidden .*-1"),
    (lambda: SolidBackground(colour=(0.0, 2.0, 0.5)), r"colour .*\[0, 1\], not 0 2 0.5"),
    (lambda: RandomBackground(colour=(-1.0, 0.0, 0.0)), "colour .*-1"),
    (lambda: RandomBackground(chance=1.5), r"chance .*\[0, 1\], not 1.5"), (lambda: EnvironmentBackground(chance=-0.1), "chance .*-0.1"),
    (lambda: EnvironmentBackground(after=3.0), "after .*3"), (lambda: EnvironmentBackground(hidden=0), "hidden .*0"),
    (lambda: EnvironmentBackground(frequencies=-1), "frequencies .*-1"), (lambda: WorldBackground(which=6), "which is one of -1 to 5, not 6"),
    (lambda: Occupancy(1, 1.0), "cells of at least 2.* not 1, "), (lambda: Occupancy(8, 0.0), "reach above 0.* 0.0"),
    (lambda: Occupancy(8, 1.0, threshold=-1.0), "threshold .*-1.0"),
    (lambda: Occupancy(8, 1.0, decay=1.0), r"decay in \[0, 1\).*1.0"),
])  # fmt: skip
def test_bad_options_are_named(make, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
