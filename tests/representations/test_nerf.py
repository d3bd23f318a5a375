"""Radiance fields against closed forms of a ball of constant density; resumed runs; options."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from rich.console import Console
from tiny_pipeline import row_rng
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.graphics.cameras.camera import Camera, turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import NoCamera, Orbit
from limbeck.graphics.fields.background import EnvironmentBackground, SolidBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import Magic3DDensityInit, NoDensityInit
from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.fields.surface import field_to_surface
from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid
from limbeck.graphics.rendering.shading import Shading
from limbeck.graphics.rendering.volume import importance_resample, ray_march
from limbeck.priors.loading import load
from limbeck.representations import nerf
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.runs.recorder import Recorder
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

RADIUS, SIGMA = 0.6, 3.0


class BallModule(EncodingModule):
    """Log density and three color logits of a ball; red grows with x."""

    num_features = 4

    def __init__(self, sigma: float):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    def forward(self, points: Tensor, progress: float) -> Tensor:
        log_density = torch.where(points.norm(dim=1) < RADIUS, self.log_sigma, -30.0)
        zeros = torch.zeros_like(log_density)
        return torch.stack([log_density, points[:, 0] * 8, zeros, zeros], 1)


@dataclass(frozen=True)
class Ball(Encoding):
    sigma: float = SIGMA

    def build(self, generator: torch.Generator) -> EncodingModule:
        return BallModule(self.sigma)


def gray(density: Tensor) -> Tensor:
    """Features of a raw density without color."""
    return torch.stack([density, *[torch.zeros_like(density)] * 3], 1)


class SoftBallModule(EncodingModule):
    """A ball with a gradient of the density everywhere."""

    num_features = 4

    def forward(self, points: Tensor, progress: float) -> Tensor:
        return gray(60 * (0.5 - points.norm(dim=1)))


@dataclass(frozen=True)
class SoftBall(Encoding):
    def build(self, generator: torch.Generator) -> EncodingModule:
        return SoftBallModule()


class ShellModule(EncodingModule):
    """A shell .06 thick, with sharp edges."""

    num_features = 4

    def forward(self, points: Tensor, progress: float) -> Tensor:
        return gray(torch.where((points.norm(dim=1) - RADIUS).abs() < 0.03, 3.0, -30.0))


@dataclass(frozen=True)
class Shell(Encoding):
    def build(self, generator: torch.Generator) -> EncodingModule:
        return ShellModule()


class LitBallModule(BallModule):
    """A gray ball that is brighter the more along x it is seen."""

    num_features = 6

    def forward(self, points: Tensor, progress: float) -> Tensor:
        density, zeros = super().forward(points, progress)[:, 0], torch.zeros(len(points))
        return torch.stack([density, zeros, zeros, zeros, zeros + 2.0, zeros], 1)


@dataclass(frozen=True)
class LitBall(Encoding):
    def build(self, generator: torch.Generator) -> EncodingModule:
        return LitBallModule(1e3)


@pytest.fixture(scope="module")
def prior():
    return load("world", "cpu")


def ball(**options) -> NeRF:
    defaults = {
        "encoding": Ball(),
        "density_init": NoDensityInit(),
        "density_activation": "exp",
        "bound": 1.0,
        "samples": 2000,
        "occupancy_resolution": 8,
        "background": SolidBackground((0.0, 0.0, 0.0)),
    }
    return NeRF(**(defaults | options))


def views_of_first(count: int = 1) -> RenderRequest:
    """Views of particle 0 from all around."""
    particle = torch.zeros(count, dtype=torch.long)
    return RenderRequest(particle, turntable_cameras(count, 20.0, 3.0, 40.0))


def chord(camera: Camera, height: int, width: int) -> Tensor:
    """Length of each ray inside the ball."""
    along = (camera.eye[:, None, None] * camera.directions(height, width)).sum(-1)
    squared_distance = camera.eye.square().sum(1)[:, None, None]
    return 2 * (along.square() - squared_distance + RADIUS**2).clamp_min(0).sqrt()


# Closed forms


def test_alpha_of_a_ball_of_constant_density_is_that_of_its_chords(prior):
    request = views_of_first(2)
    with torch.no_grad():
        alpha = ball().build(prior, 1, 0).render(request).alpha[:, 0]
    exact = 1 - torch.exp(-SIGMA * chord(request.camera, *alpha.shape[1:]))
    step = 2 * 3**0.5 / 2000
    assert float((alpha - exact).abs().max()) <= 1.5 * SIGMA * step
    assert float(alpha.max()) > 0.9 and float(alpha.min()) == 0


def test_brightness_depends_on_the_horizontal_direction_of_sight(prior):
    """By one factor for all channels; exports have that between opposite directions."""
    particles = ball(encoding=LitBall(), view_dependence="brightness").build(prior, 1, 0)
    request = views_of_first(8)
    with torch.no_grad():
        render = particles.render(request)
    height, width = render.image.shape[2:]
    directions = request.camera.directions(height, width)
    opaque = render.alpha[:, 0] > 0.999
    expected = 0.5 * (1 + 2 * directions[..., 0]).sigmoid()[opaque]
    found = render.image.permute(0, 2, 3, 1)[opaque]
    assert opaque.sum() > 1000 and float(expected.max() - expected.min()) > 0.3
    assert torch.allclose(found, expected[:, None].expand(-1, 3), atol=2e-3)
    middle = torch.tensor(0.5 / (1 + math.exp(-1))).expand(3, 3)
    points, up = torch.zeros(3, 3), torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3)
    assert torch.allclose(particles.albedo(points, 0), middle)
    assert torch.allclose(particles.field(0).query(points, directions=up)[1], middle)


def test_the_dependence_on_the_view_is_learned_and_has_its_place(prior):
    grid = DenseGridEncoding(resolutions=(4,), features_per_level=6)
    lit = NeRF(encoding=grid, samples=8, view_dependence="brightness", size=(16, 16))
    particles = lit.build(prior, 1, 0)
    particles.render(views_of_first(2)).image[:, :, :, :8].sum().backward()
    gradient = particles.field(0).encoding.levels[0].grad
    assert gradient[..., 4:].abs().amax((0, 1, 2)).min() > 0
    with pytest.raises(ValueError, match="at least 6 features, not 4"):
        NeRF(view_dependence="brightness").build(prior, 1, 0)
    with pytest.raises(ValueError, match="latents have no brightness"):
        replace(lit, space="latent")


def test_depth_of_an_opaque_ball_is_that_of_its_surface(prior):
    request = views_of_first()
    camera = request.camera
    with torch.no_grad():
        depth = ball(encoding=Ball(sigma=1e3)).build(prior, 1, 0).render(request).depth[0, 0]
    directions = camera.directions(*depth.shape)[0]
    cos_axis = -(directions * camera.pose[0, :3, 2]).sum(-1)
    to_middle = -(camera.eye[0] * directions).sum(-1)
    half = chord(camera, *depth.shape)[0] / 2
    exact = (to_middle - half) * cos_axis
    assert float((depth - exact)[half > 0.2].abs().max()) < 5e-3
    assert float(depth[half == 0].abs().max()) < 1e-6  # the density outside is exp(-30)


def test_the_gradient_of_an_image_is_a_finite_difference(prior):
    nerf = ball(samples=200).build(prior, 1, 0).double()
    log_sigma = nerf.field(0).encoding.log_sigma
    request = views_of_first()
    pose, fov = request.camera.pose.double(), request.camera.fov.double()
    request = replace(request, camera=Camera(pose, fov))
    nerf.render(request).image.sum().backward()
    sums, step = [], 1e-5
    with torch.no_grad():
        for shift in (step, -2 * step):
            log_sigma += shift
            sums.append(nerf.render(request).image.sum())
    difference = float((sums[0] - sums[1]) / (2 * step))
    assert abs(difference - float(log_sigma.grad)) < 1e-5 * abs(float(log_sigma.grad))


def test_normals_point_outward(prior):
    config = ball(encoding=SoftBall(), density_activation="softplus", samples=400)
    nerf = config.build(prior, 1, 0)
    outward = F.normalize(row_rng(50).normal("directions", 3), dim=1)
    normals = nerf.field(0).normals(outward * 0.5)
    assert float((normals * outward).sum(1).min()) > 0.999
    request = views_of_first()
    with torch.no_grad():
        render = nerf.render(request)
    center = F.normalize(render.normal[0, :, 32, 32], dim=0)
    assert float(center @ F.normalize(request.camera.eye[0], dim=0)) > 0.99


def test_skipping_empty_space_keeps_the_image(prior):
    nerf = ball(samples=100).build(prior, 1, 0)
    with torch.no_grad():
        before = nerf.render(views_of_first()).image
        nerf.after_step(15, 16, None)
        assert nerf.field(0).occupancy.occupied_fraction < 0.9
        difference = (nerf.render(views_of_first()).image - before).abs().max()
        assert difference < 1e-12  # skipped: a density of exp(-30) over a length of at most 3.5


def test_importance_samples_render_a_thin_shell_better_than_even_ones(prior):
    def alpha(samples: int, importance_samples: int) -> Tensor:
        config = ball(
            encoding=Shell(),
            samples=samples,
            importance_samples=importance_samples,
            occupancy_resolution=2,
        )
        return config.build(prior, 1, 0).render(views_of_first()).alpha

    exact = alpha(3000, 0)
    even, importance = ((alpha(*n) - exact).abs().mean() for n in ((160, 0), (80, 80)))
    assert importance < 2 / 3 * even


def test_importance_samples_cover_whole_rays_and_keep_alpha(prior):
    nerf = ball(samples=200, importance_samples=50).build(prior, 1, 0)
    request, c = views_of_first(), nerf.config
    eye, directions = request.camera.eye, request.camera.directions(9, 9)
    grid, jitter = OccupancyGrid(2, c.bound), torch.full((1, 9, 9), 0.5)
    even = ray_march(eye, directions, c.bound, c.samples, jitter, grid)
    density = nerf.density(even.points, 0)
    both = importance_resample(eye, directions, c.bound, even, density, 50, grid, jitter, None)
    lengths = both.accumulate(both.deltas, torch.ones_like(both.distances)[:, None])
    deltas = torch.full_like(even.distances, even.deltas)
    even_lengths = even.accumulate(deltas, torch.ones_like(even.distances)[:, None])
    assert len(both.column) > len(even.column)
    assert (lengths - even_lengths).abs().max() < 2 * even.deltas
    exact = 1 - torch.exp(-SIGMA * chord(request.camera, *nerf.canvas_size))
    alpha = nerf.render(request).alpha[0, 0]
    assert (alpha - exact[0]).abs().max() <= 1.5 * SIGMA * even.deltas


def test_the_asset_of_a_ball_is_a_sphere_with_its_colors(prior):
    asset = ball(encoding=Ball(sigma=1e3)).build(prior, 1, 0).asset(0)
    radius = asset.vertices.norm(dim=1)
    cell_size = 2 * 1.0 / 96
    assert abs(float(radius.mean()) - RADIUS) < cell_size
    assert float((radius - RADIUS).abs().max()) < 1.5 * cell_size
    red = asset.color(asset.vertices)[:, 0]
    # it comes from up to a cell inside; the slope of the color is at most 8 / 4
    assert (red - (asset.vertices[:, 0] * 8).sigmoid()).abs().max() < 2 * cell_size
    a, b, c = asset.vertices[asset.faces].unbind(1)
    outward = (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(1) > 0
    assert float(outward.float().mean()) > 0.99


@pytest.mark.parametrize(
    ("entropy_warmup", "ramp"),
    [(0.0, (1.0, 1.0, 1.0)), (1.0, (0.0, 0.5, 1.0)), (0.5, (0.0, 1.0, 1.0))],
)
def test_the_entropy_term_ramps_to_its_weight(prior, entropy_warmup, ramp):
    nerf = ball(entropy_weight=3.0, entropy_warmup=entropy_warmup).build(prior, 1, 0)
    render = nerf.render(views_of_first())
    alpha = render.alpha.clamp(1e-5, 1 - 1e-5)
    entropy = -(alpha * alpha.log() + (1 - alpha) * (1 - alpha).log()).mean()
    for progress, factor in zip((0.0, 0.5, 1.0), ramp, strict=True):
        terms = nerf.regularize(render, progress)
        assert torch.allclose(sum(terms.values(), torch.zeros(())), 3.0 * factor * entropy)


# Runs


SMALL = NeRF(
    encoding=DenseGridEncoding(resolutions=(6,)),
    resolution=8,
    samples=12,
    occupancy_resolution=8,
    bound=1.2,
)
LATENT = replace(
    SMALL,
    space="latent",
    resolution=0,
    encoding=DenseGridEncoding(resolutions=(6,), features_per_level=5),
)
LIT = replace(
    SMALL,
    density_noise=1.0,
    importance_samples=6,
    shading=Shading(ambient_only_fraction=0.0, diffuse_prob=0.8),
)


def test_the_initial_density_is_density_init(prior):
    config = replace(
        SMALL,
        density_init=Magic3DDensityInit(10.0, 0.5),
        encoding=DenseGridEncoding(resolutions=(6,), init_std=0.0),
    )
    points = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 1.0, 0.0]])
    density = config.build(prior, 1, 0).density(points, 0)
    assert torch.allclose(density, F.softplus(torch.tensor([10.0, 0.0, -10.0])), atol=1e-5)


def experiment(representation: NeRF = SMALL, **options) -> Experiment:
    prompts = ("a red mug", "a blue cube")
    return Experiment(prompts, representation=representation, steps=40, **options)


@pytest.mark.parametrize(("radius", "touched"), [(0.6, False), (3.0, True)])
def test_a_run_says_that_its_field_fills_the_box(tmp_path, prior, monkeypatch, radius, touched):
    monkeypatch.setattr(nerf, "field_to_surface", partial(field_to_surface, resolution=32))
    field = replace(SMALL, density_init=Magic3DDensityInit(10.0, radius))
    console = Console(file=io.StringIO(), width=1000)
    e = replace(experiment(field), prompts=("a red mug",), steps=2)
    recorder = Recorder(e, prior, tmp_path, console)
    for step in range(3):
        recorder._save_assets(step)
    recorder.close()
    output = console.file.getvalue()
    assert output.count("particle 00-00: the object touches its box at the left (-x)") == touched
    assert ("touches" in output) == touched


def test_regularizers_of_a_particle_do_not_depend_on_the_number_of_particles(prior):
    """A term is summed over the particles, as the distillation loss is."""
    render = SMALL.build(prior, 1, 0).render(views_of_first())
    parts = [replace(render, terms={"entropy": torch.tensor(value)}) for value in (1.0, 3.0)]
    joined = nerf._concat_renders(parts, torch.tensor([1, 0]))
    assert float(joined.terms["entropy"]) == 4.0 and len(joined.image) == 2


def test_a_field_that_is_not_drawn_does_not_move(prior):
    run = Run(experiment(batch_size=1), prior)
    before = [p.detach().clone() for p in run.representation.parameters()]
    drawn = int(run.advance().inputs.particle[0])
    after = run.representation.parameters()
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [k == drawn for k in range(2)]


def test_each_particle_has_its_views_in_a_step(prior):
    run = Run(experiment(cameras=Orbit(per_particle=2)), prior)
    inputs = run.advance().inputs
    assert inputs.particle.tolist() == [0, 0, 1, 1] and len(inputs.camera) == 4


@pytest.mark.parametrize("config", [SMALL, LIT, LATENT], ids=["default", "lit", "latent"])
def test_a_resumed_run_is_bit_identical(prior, config):
    whole, interrupted = (Run(experiment(config), prior) for _ in range(2))
    for _ in range(18):  # past the first update of the occupancy grid
        whole.advance()
        interrupted.advance()
    resumed = Run(experiment(config), prior)
    resumed.load({name: tensor.clone() for name, tensor in interrupted.tensors().items()}, 18)
    for _ in range(2):
        whole.advance()
        resumed.advance()
    a, b = whole.tensors().values(), resumed.tensors().values()
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("resolution", [0, 16])
def test_a_training_render_of_an_empty_field_is_its_background(prior, resolution):
    """Also where both are upsampled to the size of the model."""
    background = EnvironmentBackground()
    field = ball(encoding=Ball(1e-9), samples=4, background=background, resolution=resolution)
    request = replace(views_of_first(), rng=row_rng(1, seed=3), progress=0.0)
    with torch.no_grad():
        render = field.build(prior, 1, 0).render(request)
    assert render.background.shape == render.image.shape == (1, 3, 64, 64)
    assert (render.image - render.background).abs().max() < 1e-5


def test_a_latent_field_renders_latents_and_has_no_colors(prior):
    nerf = LATENT.build(prior, 1, 0)
    render = nerf.render(views_of_first(3))
    assert render.space == "latent" and render.image.shape == (3, *prior.shape)
    with pytest.raises(ValueError, match="a field of latents has no colors"):
        nerf.albedo(torch.zeros(1, 3), 0)
    with pytest.raises(ValueError, match="a field of latents has no colors"):
        nerf.asset(0)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples must be at least 2, not 1"),
        ({"samples": 2, "importance_samples": 4}, "at least 3 with importance_samples, not 2"),
        ({"encoding": FrequencyEncoding()}, "decoder identity learns nothing on encoding freq"),
        (
            {"encoding": HashGridEncoding(), "decoder": MLPDecoder(), "tv_weight": 100.0},
            "tv_weight 100.0 has no effect with encoding hash-grid or frequency",
        ),
        ({"bound": 0.0}, "bound must be positive, not 0"),
        ({"opacity_weight": -1.0}, "opacity_weight must not be negative, not -1"),
        ({"resolution_switch": 2.0}, r"resolution_switch must be in \[0, 1\], not 2"),
        ({"space": "latent", "shading": Shading(diffuse_prob=0.5)}, "latents cannot be lit"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NeRF(**options)


def test_cameras_are_for_3d_representations_only():
    with pytest.raises(ValueError, match="cameras orbit do not suit the representation latents"):
        Experiment(("a",), representation=Latents(), cameras=Orbit())
    with pytest.raises(ValueError, match="cameras none do not suit the representation nerf"):
        Experiment(("a",), representation=SMALL, cameras=NoCamera())
