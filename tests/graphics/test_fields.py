"""Parts of fields beside encodings: decoders, density initializations and backgrounds."""

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
from limbeck.world import scene
from limbeck.world.background import WorldBackground


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def diagonal_points(*distances: float) -> torch.Tensor:
    """Points of the diagonal at these distances from the origin."""
    return torch.tensor(distances)[:, None] * torch.ones(3) / math.sqrt(3)


def test_components_are_found_by_name() -> None:
    assert set(choices(Decoder)) == {"identity", "mlp", "residual"}
    assert set(choices(DensityInit)) == {"none", "gaussian", "magic3d", "scene", "mixed"}
    assert set(choices(Background)) == {"solid", "random", "environment", "world"}


# density initializations


@pytest.mark.parametrize(
    ("density", "distances", "expected"),
    [
        (GaussianDensityInit(), (0, 0.2, 0.4), (5, 5 * math.exp(-0.5), 5 * math.exp(-2))),
        (Magic3DDensityInit(), (0, 0.25, 0.5, 1), (10, 5, 0, -10)),
        (SceneDensityInit(), (0, 1.25, 2.5, 5), (-10, -5, 0, 10)),
        (NoDensityInit(), (0, 1), (0, 0)),
    ],
    ids=["gaussian", "magic3d", "scene", "none"],
)
def test_densities_are_the_papers_formulas(density, distances, expected) -> None:
    values = density(diagonal_points(*distances))
    assert torch.allclose(values, torch.tensor(expected, dtype=torch.float32), atol=1e-5)


def test_the_mixed_density_is_continuous_at_five_sixths() -> None:
    density = MixedDensityInit()
    assert density.boundary_radius == pytest.approx(5 / 6)
    inner, outer = diagonal_points(0, 0.4, 0.83), diagonal_points(0.84, 2, 3)
    assert torch.equal(density(inner), Magic3DDensityInit()(inner))
    assert torch.equal(density(outer), SceneDensityInit()(outer))
    boundary = density(diagonal_points(5 / 6 - 1e-4, 5 / 6 + 1e-4))
    assert torch.allclose(boundary, torch.full((2,), -20 / 3), atol=3e-3)


@pytest.mark.parametrize(
    "density", [MixedDensityInit(4, 0.3, -2, 1.5), MixedDensityInit(1, 2, -7, 3)]
)
def test_any_mixed_density_is_continuous(density: MixedDensityInit) -> None:
    radius = density.boundary_radius
    below, above = density(diagonal_points(radius * (1 - 1e-5), radius * (1 + 1e-5)))
    assert below.item() == pytest.approx(above.item(), abs=1e-3)


# decoders


def test_identity_returns_the_first_features() -> None:
    features = torch.randn(5, 6, generator=seeded())
    assert torch.equal(IdentityDecoder().build(6, seeded())(features), features[:, :4])
    five = IdentityDecoder().build(6, seeded(), num_outputs=5)
    assert torch.equal(five(features), features[:, :5])
    with pytest.raises(ValueError, match="at least 4 features, not 3"):
        IdentityDecoder().build(3, seeded())


def test_mlp_has_one_hidden_layer() -> None:
    network = MLPDecoder(hidden_dim=7).build(5, seeded())
    x = torch.randn(9, 5, generator=seeded(1))
    first, _, last = network
    assert first.weight.shape == (7, 5) and last.weight.shape == (4, 7)
    hidden = (x @ first.weight.t() + first.bias).relu()
    assert torch.allclose(network(x), hidden @ last.weight.t() + last.bias, atol=1e-6)


def test_residual_is_the_papers_network() -> None:
    network = ResidualDecoder().build(48, seeded())
    x = torch.randn(20, 48, generator=seeded(1))
    num_parameters = (49 + 5 * (2 + 2 * 129) + 2) * 128 + 129 * 4
    assert sum(p.numel() for p in network.parameters()) == num_parameters
    h = network[0](x)
    for block in network[1:6]:
        inner = F.layer_norm(h, (128,)) @ block.first.weight.t()
        h = h + (inner * inner.sigmoid()) @ block.second.weight.t()
    expected = F.layer_norm(h, (128,)) @ network[7].weight.t()
    assert torch.allclose(network(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "spec", [MLPDecoder(), ResidualDecoder(hidden_dim=16, num_blocks=2)], ids=["mlp", "residual"]
)
def test_networks_come_from_the_generator_and_start_near_zero(spec: Decoder) -> None:
    before = torch.get_rng_state()
    network, same = (spec.build(12, seeded(3)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    x = torch.randn(500, 12, generator=seeded(1))
    assert torch.equal(network(x), same(x))
    assert network(x).std() < 0.3  # small beside a density of 5 or 10 and a gray albedo
    network(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


# backgrounds

DIRECTIONS = F.normalize(torch.randn(2, 3, 5, 3, generator=seeded(8)), dim=-1)  #: 2 views of 3 x 5


def test_a_solid_color_has_no_parameters() -> None:
    background = SolidBackground(color=(0.2, 0.4, 1.0)).build(seeded())
    assert not list(background.parameters()) and not background.state_dict()
    expected = torch.tensor([0.2, 0.4, 1.0]).expand(2, 3, 5, 3)
    assert torch.equal(background(DIRECTIONS, seeded(), 0.1), expected)


def test_a_learned_color_starts_as_given_and_has_a_gradient() -> None:
    background = SolidBackground(color=(0.2, 0.4, 0.9), learned=True).build(seeded())
    colors = background(DIRECTIONS[0, 0])
    assert torch.allclose(colors, torch.tensor([0.2, 0.4, 0.9]).expand(5, 3), atol=1e-6)
    colors.sum().backward()
    expected = 5 * torch.tensor([0.2 * 0.8, 0.4 * 0.6, 0.9 * 0.1])
    assert torch.allclose(background.logit.grad, expected, atol=1e-5)


def test_random_colors_are_one_per_view_with_their_probability() -> None:
    background = RandomBackground(random_prob=0.3, color=(1.0, 0.5, 0.0)).build(seeded())
    color = torch.tensor([1.0, 0.5, 0.0])
    assert torch.equal(background(DIRECTIONS), color.expand(2, 3, 5, 3))  # evaluation
    many = background(DIRECTIONS[:1].expand(4000, 3, 5, 3), seeded(1))
    assert torch.equal(many, many[:, :1, :1].expand_as(many))
    is_random = (many[:, 0, 0] != color).any(1)
    assert abs(is_random.float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)
    colors = many[is_random, 0, 0]
    assert len(colors.unique(dim=0)) == len(colors)
    assert torch.allclose(colors.mean(0), torch.tensor(0.5), atol=4 * math.sqrt(1 / 12 / 1200))
    one_view = RandomBackground().build(seeded())(DIRECTIONS[0, 0], seeded(2))
    assert len(one_view.unique(dim=0)) == 1  # [n, 3] are directions of one view


def test_an_environment_is_an_mlp_of_the_encoded_direction() -> None:
    background = EnvironmentBackground().build(seeded())
    layers = [layer for layer in background.network if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(16, 27), (16, 16), (3, 16)]
    waves = [f(DIRECTIONS * 2**k) for k in range(4) for f in (torch.sin, torch.cos)]
    features = torch.cat([DIRECTIONS, *waves], -1)
    assert torch.allclose(background(DIRECTIONS), background.network(features).sigmoid())
    background(DIRECTIONS, seeded()).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in background.parameters())


def test_an_environment_is_replaced_by_random_colors_later_in_training() -> None:
    spec = EnvironmentBackground(random_aug_prob=1.0, random_aug_start=0.2)
    background, rng = spec.build(seeded()), seeded(4)
    state = rng.get_state()
    assert torch.equal(background(DIRECTIONS, rng, 0.1), background(DIRECTIONS))
    assert torch.equal(state, rng.get_state())
    later = background(DIRECTIONS, rng, 0.2)
    assert torch.equal(later, later[:, :1, :1].expand_as(later))
    assert not torch.equal(later[0], later[1])
    assert torch.equal(background(DIRECTIONS, None, 1.0), background(DIRECTIONS))


def test_world_backgrounds_are_the_gradients_of_the_world() -> None:
    sky, ground = torch.from_numpy(scene.SKY_COLORS), torch.from_numpy(scene.GROUND_COLORS)
    colors = WorldBackground(index=2).build(seeded())(DIRECTIONS, seeded())
    for row in range(3):
        k = (row + 0.5) / 3
        assert torch.allclose(colors[:, row], sky[2] * (1 - k) + ground[2] * k)
    random = WorldBackground().build(seeded())
    assert torch.equal(random(DIRECTIONS), WorldBackground(index=0).build(seeded())(DIRECTIONS))
    many = random(DIRECTIONS[:1].expand(200, 3, 5, 3), seeded(1))
    assert len(many[:, 0, 0].unique(dim=0)) == 6
    shared = WorldBackground(shared=True).build(seeded())
    draws = [shared(DIRECTIONS[:1].expand(4, 3, 5, 3), seeded(i)) for i in range(40)]
    assert all(torch.equal(draw, draw[:1].expand_as(draw)) for draw in draws)
    assert len({draw[0, 0, 0].sum().item() for draw in draws}) == 6
    with pytest.raises(ValueError, match=r"\[b, h, w, 3\], not \[5, 3\]"):
        random(DIRECTIONS[0, 0])


# errors


@pytest.mark.parametrize(
    ("component", "options", "message"),
    [
        (GaussianDensityInit, {"std": 0.0}, "std must be positive, not 0.0"),
        (Magic3DDensityInit, {"radius": -1.0}, "radius .*-1"),
        (SceneDensityInit, {"radius": 0.0}, "radius .*0"),
        (MixedDensityInit, {"scene_radius": 0.0}, "scene_radius .*0"),
        (MixedDensityInit, {"object_scale": -3.0}, "object_scale must be positive .*-3.0 and -10"),
        (MLPDecoder, {"hidden_dim": 0}, "hidden_dim must be at least 1, not 0"),
        (ResidualDecoder, {"num_blocks": 0}, "num_blocks must be at least 1, not 0"),
        (ResidualDecoder, {"hidden_dim": -1}, "hidden_dim .*-1"),
        (SolidBackground, {"color": (0.0, 2.0, 0.5)}, r"color .*\[0, 1\], not 0 2 0.5"),
        (RandomBackground, {"color": (-1.0, 0.0, 0.0)}, "color .*-1"),
        (RandomBackground, {"random_prob": 1.5}, r"random_prob .*\[0, 1\], not 1.5"),
        (EnvironmentBackground, {"random_aug_prob": -0.1}, "random_aug_prob .*-0.1"),
        (EnvironmentBackground, {"random_aug_start": 3.0}, "random_aug_start .*3"),
        (EnvironmentBackground, {"hidden_dim": 0}, "hidden_dim .*0"),
        (EnvironmentBackground, {"num_frequencies": -1}, "num_frequencies .*-1"),
        (WorldBackground, {"index": 6}, r"index must be in \[-1, 5\], not 6"),
    ],
)
def test_bad_options_are_refused(component: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        component(**options)
