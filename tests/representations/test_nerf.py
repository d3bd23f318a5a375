"""Radiance fields against closed forms: what is left of light in a ball of constant density, where its surface lies, which way it
faces."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from limbeck.graphics.cameras.camera import orbit_cameras, turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import NoCamera, Orbit
from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.fields.density_init import Magic3DDensityInit, NoDensityInit
from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid
from limbeck.graphics.rendering.shading import PointLight, Shading
from limbeck.graphics.rendering.volume import RaySamples, importance_resample, ray_aabb_intersect, ray_march
from limbeck.priors.loading import load
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run, step_generator

RADIUS, SIGMA = 0.6, 3.0


class _Ball(EncodingModule):
    """log density and three colour logits of a ball."""

    num_features = 4

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    def forward(self, points: Tensor, progress: float) -> Tensor:
        inside = points.norm(dim=1) < RADIUS
        height = torch.where(inside, self.sigma, -30.0)
        return torch.stack(
            [height, points[:, 0] * 8, torch.zeros_like(height), torch.zeros_like(height)], 1
        )


@dataclass(frozen=True)
class Ball(Encoding):
    sigma: float = SIGMA

    def build(self, generator: torch.Generator) -> EncodingModule:
        return _Ball(self.sigma)


class _Soft(EncodingModule):
    """A ball whose density falls off, so that it has a gradient everywhere."""

    num_features = 4

    def forward(self, points: Tensor, progress: float) -> Tensor:
        height = 60 * (0.5 - points.norm(dim=1))
        return torch.stack([height, *[torch.zeros_like(height)] * 3], 1)


@dataclass(frozen=True)
class Soft(Encoding):
    def build(self, generator: torch.Generator) -> EncodingModule:
        return _Soft()


class _Shell(EncodingModule):
    """A shell .06 thick, with edges."""

    num_features = 4

    def forward(self, points: Tensor, progress: float) -> Tensor:
        height = torch.where((points.norm(dim=1) - RADIUS).abs() < 0.03, 3.0, -30.0)
        return torch.stack([height, *[torch.zeros_like(height)] * 3], 1)


@dataclass(frozen=True)
class Shell(Encoding):
    def build(self, generator: torch.Generator) -> EncodingModule:
        return _Shell()


@pytest.fixture(scope="module")
def prior():
    return load("world", "cpu")


def ball(**options) -> NeRF:
    return NeRF(**{"encoding": Ball(), "density_init": NoDensityInit(), "density_activation": "exp", "bound": 1.0, "samples": 2000, "occupancy_resolution": 8,
                    "background": SolidBackground((0.0, 0.0, 0.0)), **options})  # fmt: skip


def one(count: int = 1, **options) -> RenderRequest:
    return RenderRequest(
        torch.zeros(count, dtype=torch.long), turntable_cameras(count, 20.0, 3.0, 40.0), **options
    )


def chord(camera, height: int, width: int) -> Tensor:
    """Length of each ray inside the ball."""
    ahead = camera.directions(height, width)
    along = (camera.eye[:, None, None] * ahead).sum(-1)
    return (
        2
        * (along.square() - camera.eye.square().sum(1)[:, None, None] + RADIUS**2)
        .clamp_min(0)
        .sqrt()
    )


def test_a_ball_of_constant_density_takes_as_much_light_as_its_chord_says(prior):
    made = ball().build(prior, 1, 0)
    view = one(2)
    with torch.no_grad():
        alpha = made.render(view).alpha[:, 0]
    exact = 1 - torch.exp(-SIGMA * chord(view.camera, *alpha.shape[1:]))
    step = 2 * 3**0.5 / 2000
    assert float((alpha - exact).abs().max()) <= 1.5 * SIGMA * step
    assert float(alpha.max()) > 0.9 and float(alpha.min()) == 0


def test_the_depth_of_an_opaque_ball_is_where_its_surface_is(prior):
    made = ball(encoding=Ball(sigma=1e3)).build(prior, 1, 0)
    view = one()
    with torch.no_grad():
        depth = made.render(view).depth[0, 0]
    ahead = view.camera.directions(*depth.shape)[0]
    axis = -(ahead * view.camera.pose[0, :3, 2]).sum(-1)
    along = -(view.camera.eye[0] * ahead).sum(-1)
    half = chord(view.camera, *depth.shape)[0] / 2
    seen = half > 0.2
    assert float((depth - (along - half) * axis)[seen].abs().max()) < 5e-3
    assert float(depth[half == 0].abs().max()) < 1e-6  # outside the density is exp(-30)


def test_the_gradient_of_a_picture_is_its_finite_difference(prior):
    made = ball(samples=200).build(prior, 1, 0).double()
    sigma = made.field(0).encoding.sigma
    view = RenderRequest(torch.tensor([0]), turntable_cameras(1, 20.0, 3.0, 40.0))
    view = replace(
        view, camera=type(view.camera)(view.camera.pose.double(), view.camera.fov.double())
    )
    value = made.render(view).image.sum()
    value.backward()
    with torch.no_grad():
        e = 1e-5
        sigma += e
        high = made.render(view).image.sum()
        sigma -= 2 * e
        low = made.render(view).image.sum()
    assert abs(float((high - low) / (2 * e) - sigma.grad)) < 1e-5 * abs(float(sigma.grad))


def test_weights_and_what_passes_make_one():
    density = torch.rand(24, dtype=torch.float64) * 9
    some = RaySamples(torch.arange(24), torch.zeros(24), torch.zeros(24, 3), torch.zeros(4, 6), 0.1)
    weights = some.render_weights(density).view(4, 6).sum(1)
    assert torch.allclose(weights, 1 - torch.exp(-density.view(4, 6).sum(1) * 0.1), atol=1e-12)
    few = some.select(torch.arange(24) % 2 == 0)  # what is left out is empty
    zeroed = torch.where(torch.arange(24) % 2 == 0, density, 0.0)
    assert torch.allclose(few.render_weights(density[::2]), some.render_weights(zeroed)[::2], atol=1e-12)


def test_rays_enter_and_leave_the_box_where_its_faces_are():
    camera = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 3.0, 40.0)
    near, far = ray_aabb_intersect(camera.eye, camera.directions(3, 3), 1.0)
    assert float(near[0, 1, 1]) == pytest.approx(2.0, abs=1e-5) and float(
        far[0, 1, 1]
    ) == pytest.approx(4.0, abs=1e-5)
    inside = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 0.5, 40.0)
    near, far = ray_aabb_intersect(inside.eye, inside.directions(3, 3), 1.0)
    assert float(near[0, 1, 1]) == 0 and float(far[0, 1, 1]) == pytest.approx(1.5, abs=1e-5)
    away = orbit_cameras(
        torch.tensor([0.0]), torch.tensor([0.0]), -3.0, 40.0
    )  # looks the other way round from -z: it still sees it
    near, far = ray_aabb_intersect(away.eye, -away.directions(3, 3), 1.0)
    assert bool((far < near).all())


def test_samples_lie_on_their_rays_at_their_depths_and_in_the_box():
    camera = turntable_cameras(2, 30.0, 3.0, 40.0)
    ahead = camera.directions(5, 7)
    some = ray_march(camera.eye, ahead, 0.8, 40, torch.full((2, 5, 7), 0.5), OccupancyGrid(4, 0.8))
    eye = camera.eye[some.ray_index // 35]
    assert torch.allclose(
        some.points, eye + some.distances[:, None] * ahead.reshape(-1, 3)[some.ray_index], atol=1e-6
    )
    assert float(some.points.abs().max()) <= 0.8 + 1e-5


def test_normals_point_outwards(prior):
    made = ball(encoding=Soft(), density_activation="softplus", samples=400).build(prior, 1, 0)
    points = (
        torch.nn.functional.normalize(torch.randn(50, 3, generator=step_generator(0, 0)), dim=1) * 0.5
    )
    assert float((made.normals(0, points, 1.0) * points / 0.5).sum(1).min()) > 0.999
    view = one()
    with torch.no_grad():
        render = made.render(view)
    middle = torch.nn.functional.normalize(render.normal[0, :, 32, 32], dim=0)
    assert float(middle @ torch.nn.functional.normalize(view.camera.eye[0], dim=0)) > 0.99


def test_a_lamp_lights_as_lambert_says():
    samples = RaySamples(torch.arange(3), torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, 1), 1.0)
    albedo, normals = torch.full((3, 3), 0.5), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.6, 0.8]])
    seen = torch.tensor([True, False, True])
    lamp = PointLight(torch.tensor([[0.0, 0.0, 2.0]]), 0.1, False)
    lit = lamp.shade(albedo, samples, normals, seen, 3)
    assert torch.allclose(lit[:, 0], torch.tensor([0.5, 0.5, 0.5 * (0.1 + 0.9 * 0.8)]))
    white = replace(lamp, textureless=True).shade(albedo, samples, normals, seen, 3)
    assert torch.allclose(white[:, 0], torch.tensor([1.0, 1.0, 0.1 + 0.9 * 0.8]))


def test_lamps_are_drawn_as_often_as_is_said():
    camera, shading = (
        turntable_cameras(2, 0.0, 3.0, 40.0),
        Shading(ambient_only_fraction=0.1, diffuse_prob=0.75, textureless_prob=0.5),
    )
    drawn = [
        shading.sample_light(camera, RenderRequest(torch.zeros(2), camera, step_generator(1, i), 0.5))
        for i in range(400)
    ]
    lamps = [lamp for lamp in drawn if lamp is not None]
    assert (
        abs(len(lamps) / 400 - 0.75) < 0.07
        and abs(sum(lamp.textureless for lamp in lamps) / len(lamps) - 0.5) < 0.09
    )
    far = torch.cat([lamp.position for lamp in lamps]).norm(dim=1)
    assert float(far.min()) >= 0.8 and float(far.max()) <= 1.5
    assert (
        shading.sample_light(camera, RenderRequest(torch.zeros(2), camera, step_generator(1, 0), 0.05)) is None
    )
    assert shading.sample_light(camera, RenderRequest(torch.zeros(2), camera, None, 0.5)) is None


def test_what_is_empty_is_left_out_and_the_picture_stays(prior):
    made = ball(samples=100).build(prior, 1, 0)
    with torch.no_grad():
        before = made.render(one()).image
        made.after_step(15, 16, None)
        assert made.field(0).occupancy.occupied_fraction < 0.9
        lost = (made.render(one()).image - before).abs().max()
        assert (
            lost < 1e-12
        )  # what is left out has a density of exp(-30), over a length of at most 3.5


SMALL = NeRF(encoding=DenseGridEncoding(resolutions=(6,)), resolution=8, samples=12, occupancy_resolution=8, bound=1.2)


LATENT = replace(
    SMALL, space="latent", resolution=0, encoding=DenseGridEncoding(resolutions=(6,), features_per_level=5)
)


def experiment(**options) -> Experiment:
    return Experiment(
        ("a red mug", "a blue cube"),
        representation=options.pop("field", SMALL),
        steps=40,
        **options,
    )


def test_a_field_that_is_not_drawn_does_not_move(prior):
    run = Run(experiment(batch_size=1), prior)
    before = [p.detach().clone() for p in run.representation.parameters()]
    drawn = int(run.advance().inputs.particle[0])
    moved = [
        not torch.equal(a, b) for a, b in zip(before, run.representation.parameters(), strict=True)
    ]
    assert moved == [k == drawn for k in range(2)]


def test_a_particle_receives_the_mean_of_its_views_whatever_others_there_are(prior):
    run = Run(experiment(cameras=Orbit(per_particle=2)), prior)
    sample = run.advance().inputs
    assert sample.particle.tolist() == [0, 0, 1, 1] and len(sample.camera) == 4


def test_samples_where_weight_is_show_a_thin_shell_better_than_even_ones(prior):
    shell = {"encoding": Shell(), "occupancy_resolution": 2}
    seen = [ball(samples=n, importance_samples=more, **shell).build(prior, 1, 0).render(one()).alpha for n, more in
            ((3000, 0), (160, 0), (80, 80))]  # fmt: skip
    even, drawn = ((alpha - seen[0]).abs().mean() for alpha in seen[1:])
    assert drawn < 2 / 3 * even


def test_more_samples_leave_a_ball_as_it_is_and_stand_for_the_whole_ray(prior):
    made = ball(samples=200, importance_samples=50).build(prior, 1, 0)
    view, s = one(), made.config
    ahead = view.camera.directions(9, 9)
    some = ray_march(
        view.camera.eye, ahead, s.bound, s.samples, torch.full((1, 9, 9), 0.5), OccupancyGrid(2, s.bound)
    )
    more = importance_resample(
        view.camera.eye,
        ahead,
        s.bound,
        some,
        made.density(some.points, 0),
        50,
        OccupancyGrid(2, s.bound),
        None,
    )
    ones = torch.ones_like(more.distances)
    length = more.accumulate(more.deltas, ones[:, None])
    even = some.accumulate(
        torch.full_like(some.distances, some.deltas), torch.ones_like(some.distances)[:, None]
    )
    assert len(more.flat_index) > len(some.flat_index) and (length - even).abs().max() < 2 * some.deltas
    wanted = 1 - torch.exp(-SIGMA * chord(view.camera, *made.canvas_size))
    assert (made.render(view).alpha[0, 0] - wanted[0]).abs().max() <= 1.5 * SIGMA * some.deltas


@pytest.mark.parametrize("field", [
    SMALL, replace(SMALL, density_noise=1.0, importance_samples=6, shading=Shading(ambient_only_fraction=0.0, diffuse_prob=0.8)), LATENT,
])  # fmt: skip
def test_a_resumed_field_is_the_same_bit_by_bit(prior, field):
    straight, cut = Run(experiment(field=field), prior), Run(experiment(field=field), prior)
    for _ in range(18):  # past the first look at which cells are empty
        straight.advance()
        cut.advance()
    again = Run(experiment(field=field), prior)
    again.load({name: tensor.clone() for name, tensor in cut.tensors().items()}, 18)
    for _ in range(2):
        straight.advance()
        again.advance()
    assert all(
        torch.equal(a, b)
        for a, b in zip(straight.tensors().values(), again.tensors().values(), strict=True)
    )


def test_the_surface_of_a_ball_is_a_sphere_of_its_colours(prior):
    made = ball(encoding=Ball(sigma=1e3)).build(prior, 1, 0)
    solid = made.asset(0)
    far = solid.vertices.norm(dim=1)
    cell = 2 * 1.0 / 96
    assert abs(float(far.mean()) - RADIUS) < cell and float((far - RADIUS).abs().max()) < 1.5 * cell
    assert torch.allclose(solid.color(solid.vertices)[:, 0], (solid.vertices[:, 0] * 8).sigmoid())
    a, b, c = solid.vertices[solid.faces].unbind(1)
    assert (
        float(torch.linalg.cross(b - a, c - a).mul(a + b + c).sum(1).gt(0).float().mean()) > 0.99
    )  # outwards
    with pytest.raises(ValueError, match="no colours of its own"):
        LATENT.build(prior, 1, 0).asset(0)


def test_latents_are_rendered_where_latents_are_wanted(prior):
    made = LATENT.build(prior, 1, 0)
    render = made.render(one(3))
    assert render.space == "latent" and render.image.shape == (3, *prior.shape)
    with pytest.raises(ValueError, match="no colours of its own"):
        made.albedo(torch.zeros(1, 3), 0)


@pytest.mark.parametrize(
    "rise, expected", [(0.0, (1.0, 1.0, 1.0)), (1.0, (0.0, 0.5, 1.0)), (0.5, (0.0, 1.0, 1.0))]
)
def test_the_entropy_term_rises_to_its_weight(prior, rise, expected):
    model = ball(entropy_weight=3.0, entropy_warmup=rise).build(prior, 1, 0)
    render = model.render(one())
    alpha = render.alpha.clamp(1e-5, 1 - 1e-5)
    entropy = -(alpha * alpha.log() + (1 - alpha) * (1 - alpha).log()).mean()
    for progress, share in zip((0.0, 0.5, 1.0), expected, strict=True):
        terms = model.regularize(render, progress)
        assert torch.allclose(sum(terms.values(), torch.zeros(())), 3.0 * share * entropy)


def test_a_field_begins_as_its_blob(prior):
    made = replace(
        SMALL,
        density_init=Magic3DDensityInit(10.0, 0.5),
        encoding=DenseGridEncoding(resolutions=(6,), init_std=0.0),
    ).build(prior, 1, 0)
    density = made.density(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]), 0)
    exact = torch.nn.functional.softplus(torch.tensor([10.0, 0.0, -10.0]))
    assert torch.allclose(density, exact, atol=1e-5)


@pytest.mark.parametrize(("options", "says"), [
    ({"samples": 1}, "samples must be at least 2, not 1"), ({"bound": 0.0}, "bound and lr must be positive"),
    ({"opacity_weight": -1.0}, "opacity_weight is a weight"), ({"resolution_switch": 2.0}, "resolution_switch is a share"),
    ({"space": "latent", "shading": Shading(diffuse_prob=0.5)}, "latents take no light"),
])  # fmt: skip
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        NeRF(**options)


def test_sides_are_for_what_has_them():
    with pytest.raises(ValueError, match="views orbit do not suit latents"):
        Experiment(("a",), representation=Latents(), cameras=Orbit())
    with pytest.raises(ValueError, match="views flat do not suit field"):
        Experiment(("a",), representation=SMALL, cameras=NoCamera())
