"""Noise on the surface: white in a view, correlated between views by the overlap of texels."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from ball_representation import Ball
from small_3d import small_3d
from tiny_pipeline import make_inputs, max_difference
from torch import Tensor
from torch.nn import functional as F

from limbeck.config.discovery import choices
from limbeck.diffusion.condition import Conditions
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.noise import FixedPerParticleNoise, IndependentNoise, Noise
from limbeck.distillation.noise.views import (
    RenderedSurface,
    TransportedNoise,
    ViewNoise,
    WorldMapNoise,
    hemisphere_to_square,
    sphere_texels,
)
from limbeck.graphics.cameras.camera import Camera, orbit_cameras
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.cfd import CFD
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import RepresentationConfig
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.model_defaults import default_experiment
from limbeck.training.trainer import Run

RADIUS, SIDE = 0.7, 8
#: few texels, so that each can have a channel of its own
COARSE = TransportedNoise(texels=8, shells=1)
VIEW_NOISES = [cls for cls in choices(Noise).values() if issubclass(cls, ViewNoise)]


def ball(camera: Camera, size: int = 64) -> tuple[Tensor, Tensor]:
    """Depth and alpha of a ball about the origin, by the intersection of rays with a sphere."""
    rays, eye = camera.directions(size, size).double(), camera.eye[:, None, None].double()
    along, square = (rays * eye).sum(-1), eye.square().sum(-1) - RADIUS**2
    discriminant = along.square() - square
    distance = -along - discriminant.clamp_min(0).sqrt()
    cosine = -(rays * camera.pose[:, None, None, :3, 2]).sum(-1)
    alpha = (discriminant > 0).double()
    return (distance * cosine * alpha)[:, None].float(), alpha[:, None].float()


def views(*azimuths: float, elevation: float = 10.0) -> Camera:
    azimuth = torch.tensor(azimuths).deg2rad()
    return orbit_cameras(azimuth, torch.full_like(azimuth, math.radians(elevation)), 3.6, 40.0)


def inputs_of(camera: Camera, noise: Noise, channels: int = 2, step: int = 0) -> StepInputs:
    """Inputs of one particle that is the ball, with the noise of its background."""
    rng = RowRandom.of_step(3, step, torch.zeros(len(camera), dtype=torch.long))
    eps = noise(rng, (channels, SIDE, SIDE))
    prior = colored_shapes(SIDE)
    conditions = Conditions(*[prior.condition(["red disc"] * len(camera))] * 2)
    inputs = make_inputs(prior.schedule, eps, torch.full((len(camera),), 0.5), eps, conditions)
    depth, alpha = ball(camera)
    return replace(inputs, rng=rng, camera=camera, depth=depth, alpha=alpha)


def noise_of(camera: Camera, noise: Noise, channels: int = 2, step: int = 0) -> Tensor:
    inputs = inputs_of(camera, noise, channels, step)
    return noise.refine(colored_shapes(SIDE), inputs)


def unit_vectors(channels: int) -> Callable[..., Tensor]:
    """In place of ``RowRandom.normal``: every number of every draw is 1 in a channel of its own.

    The same draw, as of two views of one particle, has the same channels again.
    """
    first: dict[tuple, int] = {}
    drawn = [0]

    def normal(rng: RowRandom, purpose: str, *shape: int) -> Tensor:
        count, rows = math.prod(shape[1:]), []
        for particle, view in zip(rng.particle.tolist(), rng.view.tolist(), strict=True):
            key = (rng.seed, rng.step, particle, view, rng.scope, purpose)
            if key not in first:
                first[key] = drawn[0]
                drawn[0] += count
            assert shape[0] == channels >= drawn[0]
            rows.append(torch.zeros(channels, count))
            rows[-1][first[key] : first[key] + count] = torch.eye(count)
        return torch.stack(rows).view(-1, *shape)

    return normal


def linear_map(camera: Camera, noise: ViewNoise, steps: Sequence[int] = (0,)) -> Tensor:
    """W of every view at every step [steps * views, pixels, numbers].

    A noise is linear in the independent numbers that are drawn for it, so that W of what is given
    unit vectors is all of it: the covariance of views a and b is W_a W_b^T.
    """
    channels = 3000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowRandom, "normal", unit_vectors(channels))
        found = torch.cat([noise_of(camera, noise, channels, step) for step in steps])
    return found.flatten(2).transpose(1, 2).double()


# maps of the sphere


def test_hemispheres_are_mapped_to_squares_of_equal_area() -> None:
    n = 200_000
    direction = torch.nn.functional.normalize(torch.randn(n, 3, dtype=torch.float64), dim=1)
    pole, u, v = direction.unbind(1)
    x, y = hemisphere_to_square(pole.abs(), u, v)
    assert float(torch.stack([x, y]).abs().max()) <= 1
    cell = ((x + 1) * 4).long() * 8 + ((y + 1) * 4).long()
    counts = torch.bincount(cell, minlength=64)
    assert float((counts - n / 64).abs().max()) < 5 * math.sqrt(n / 64)


def test_texels_do_not_depend_on_the_radius_within_a_shell() -> None:
    direction = torch.nn.functional.normalize(torch.randn(1, 500, 3), dim=2)
    near, far, next_shell = (sphere_texels(r * direction, 8, 4, 1.0) for r in (0.51, 0.74, 0.76))
    assert torch.equal(near, far)
    assert torch.equal(next_shell - far, torch.full_like(far, 64))
    assert int(far.max()) < 6 * 4 * 64
    # three maps, each of its own hemisphere
    assert bool((far // (2 * 4 * 64) == torch.arange(3)[:, None]).all())


# one view


@pytest.mark.parametrize("cls", VIEW_NOISES)
def test_identity_52_the_noise_of_a_view_is_white_with_variance_one(cls: type[ViewNoise]) -> None:
    """W W^T = 1 for the linear map W from independent numbers to the noise of a view."""
    noise = COARSE if cls is TransportedNoise else cls()
    (w,) = linear_map(views(20.0), noise)
    assert max_difference(w @ w.T, torch.eye(SIDE**2).double()) < 1e-6


@pytest.mark.parametrize("background", ["fixed", "fresh"])
@pytest.mark.parametrize("cls", VIEW_NOISES)
def test_the_background_is_fixed_or_fresh(cls: type[ViewNoise], background: str) -> None:
    noise = cls(background=background)
    a, b = (noise_of(views(20.0), noise, step=step)[0] for step in (0, 7))
    same = (a - b).abs().amax(0) < 1e-6
    if background == "fixed" and cls is WorldMapNoise:
        assert bool(same.all())
    corner, center = same[0, 0], same[SIDE // 2, SIDE // 2]
    assert bool(corner) == (background == "fixed")
    assert bool(center) == (cls is WorldMapNoise)  # texels drift


def test_without_drift_a_fixed_camera_keeps_its_noise() -> None:
    """CFD in 2D."""
    noise = TransportedNoise(gamma=0.0)
    assert torch.equal(noise_of(views(20.0), noise), noise_of(views(20.0), noise, step=9))


def test_texels_drift_as_the_recursion_says() -> None:
    gamma, start, steps = 0.05, 2, 6
    noise = replace(COARSE, gamma=gamma)
    before, after = linear_map(views(20.0), noise, (start, start + steps))
    center = SIDE * SIDE // 2 + SIDE // 2
    expected = (1 - gamma) ** (steps / 2)
    assert float(before[center] @ after[center]) == pytest.approx(expected, abs=1e-6)
    assert max_difference(after @ after.T, torch.eye(SIDE**2).double()) < 1e-6


# two views


def test_identity_52_transported_noise_is_correlated_by_the_overlap_of_texels() -> None:
    """W_a W_b^T = |A and B| / sqrt(|A| |B|), between all pixels of two views."""
    camera, noise = views(0.0, 12.0), COARSE
    owner = noise.texel_owners(RenderedSurface(camera, *ball(camera)), SIDE, SIDE)
    a, b = (F.one_hot(row, SIDE**2 + 1)[:, :-1].T.double() for row in owner)  # sets of texels
    sizes = a.sum(1)[:, None] * b.sum(1)
    expected = (a @ b.T) / sizes.clamp_min(1).sqrt()
    # the background is the same in both views
    hidden = (a.sum(1) == 0) & (b.sum(1) == 0)
    expected[hidden, hidden] = 1
    w_a, w_b = linear_map(camera, noise)
    assert max_difference(w_a @ w_b.T, expected) < 1e-6
    center = expected[SIDE * SIDE // 2 + SIDE // 2]
    assert 0.3 < float(center.max()) < 0.999  # neither all nor none
    assert bool(hidden.any())


def test_the_noise_moves_with_the_surface() -> None:
    """The pixel with the largest correlation is the one where the surface point is seen."""
    camera, noise = views(0.0, 40.0), TransportedNoise(samples=12)
    surface = RenderedSurface(camera, *ball(camera))
    owner = noise.texel_owners(surface, SIDE, SIDE)
    points, _, _ = surface.points(SIDE, SIDE)
    seen = camera[1:].project(points[:1].flatten(1, 2), SIDE, SIDE)[0]
    checked = 0
    for row, column in ((3, 4), (4, 4), (3, 5), (4, 5), (4, 3)):
        pixel = row * SIDE + column
        own = owner[0] == pixel
        overlap = torch.bincount(owner[1][own], minlength=SIDE**2 + 1)[:-1]
        best = int(overlap.argmax())
        found = torch.tensor([best % SIDE + 0.5, best // SIDE + 0.5])
        assert float((found - seen[pixel, :2]).norm()) < 1.0, (row, column)
        checked += int(overlap.max()) > 0
    assert checked == 5


@pytest.mark.parametrize("cls", VIEW_NOISES)
def test_a_full_turn_gives_the_same_noise(cls: type[ViewNoise]) -> None:
    camera = views(30.0, 390.0, 30.0)
    noise = noise_of(camera, cls(), 50)
    assert torch.equal(noise[0], noise[2])
    if cls is WorldMapNoise:
        assert torch.equal(noise[0], noise[1])
    else:  # points left and right of the middle are equally near, and rounding decides for one
        surface = RenderedSurface(camera, *ball(camera))
        owner = TransportedNoise().texel_owners(surface, SIDE, SIDE)
        assert float((owner[0] == owner[1]).double().mean()) > 0.99


@pytest.mark.parametrize("cls", VIEW_NOISES)
def test_opposite_views_are_independent_on_the_surface(cls: type[ViewNoise]) -> None:
    center = SIDE * SIDE // 2 + SIDE // 2
    noise = COARSE if cls is TransportedNoise else cls()
    a, b = linear_map(views(0.0, 180.0), noise)
    assert float((b @ a[center]).abs().max()) == 0


def test_the_world_map_moves_as_the_front_of_the_object_does() -> None:
    step = 180 / SIDE  # the window moves by one pixel
    right = noise_of(views(0.0, step, elevation=0.0), WorldMapNoise(), 50)
    assert torch.equal(right[0, :, 3:5, 4], right[1, :, 3:5, 3])
    camera = views(0.0, step, elevation=0.0)
    front = torch.tensor([[0.0, 0.0, RADIUS]])
    columns = camera.project(front, SIDE, SIDE)[:, 0, 0]
    assert columns[1] < columns[0]
    low, high = views(0.0, elevation=0.0), views(0.0, elevation=step)
    camera = Camera(torch.cat([low.pose, high.pose]), torch.cat([low.fov, high.fov]))
    up = noise_of(camera, WorldMapNoise(), 50)
    assert torch.equal(up[0, :, 3, 3:5], up[1, :, 4, 3:5])
    rows = camera.project(front, SIDE, SIDE)[:, 0, 1]
    assert rows[1] > rows[0]


# runs


@pytest.mark.parametrize("cls", VIEW_NOISES)
@pytest.mark.parametrize("name", ["nerf", "dmtet", "gaussian-splats", "mesh"])
def test_every_3d_representation_takes_it(cls: type[ViewNoise], name: str, tmp_path) -> None:
    e = Experiment(
        ("red disc",),
        representation=small_3d(name, tmp_path),
        cameras=Orbit(per_particle=2, view_prompts=("", "", "", "")),
        noise=cls(),
        particles=2,
        steps=2,
    )
    run = Run(e, colored_shapes(16))
    steps = [run.advance() for _ in range(2)]
    assert all(bool(step.gradient.isfinite().all()) for step in steps)
    eps = steps[0].inputs.eps
    assert eps.shape == (4, 3, 16, 16)
    shown = steps[0].inputs.alpha > 0.9
    if bool(shown.any()):
        assert not torch.equal(eps[0], eps[1])
    assert torch.equal(eps[0, :, 0, 0], eps[1, :, 0, 0])  # background of one particle
    assert not torch.equal(eps[0, :, 0, 0], eps[2, :, 0, 0])


@pytest.mark.parametrize("cls", VIEW_NOISES)
def test_2d_is_refused(cls: type[ViewNoise]) -> None:
    with pytest.raises(ValueError, match="the representation latents is 2D: use --noise fixed-per"):
        Experiment(("red disc",), noise=cls())


def test_renders_without_depth_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = Orbit(view_prompts=("", "", "", ""))
    e = Experiment(("red disc",), representation=Ball(), cameras=cameras, noise=TransportedNoise())
    run = Run(e, colored_shapes(16))
    render = run.representation.render
    monkeypatch.setattr(
        run.representation, "render", lambda request: replace(render(request), depth=None)
    )
    with pytest.raises(ValueError, match="needs renders with camera, depth and alpha"):
        run.advance()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 2.0}, r"gamma must lie in \[0, 1\], not 2"),
        ({"extent": 0.0}, "extent must be positive, not 0"),
        ({"min_alpha": 0.0}, r"min_alpha must be in \(0, 1\], not 0"),
    ],
)
def test_bad_options_of_transported_noise(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransportedNoise(**options)


def test_a_window_of_the_world_map_is_at_most_half_a_turn() -> None:
    with pytest.raises(ValueError, match=r"window must be in \(0, 180\] degrees, not 200"):
        WorldMapNoise(200.0)


# CFD


def test_cfd_has_the_noise_of_its_paper_in_2d_and_3d(tmp_path) -> None:
    flat = Experiment(("red disc",), method=CFD())
    solid = Experiment(("red disc",), method=CFD(), representation=small_3d("nerf", tmp_path))
    assert flat.noise == solid.noise == IndependentNoise()
    assert flat.noise_of_run == FixedPerParticleNoise()
    assert solid.noise_of_run == TransportedNoise()
    chosen = replace(solid, noise=WorldMapNoise())
    assert chosen.noise_of_run == WorldMapNoise()
    run = Run(replace(flat, steps=3), colored_shapes(16))
    noises = [run.advance().inputs.eps for _ in range(3)]
    assert torch.equal(noises[0], noises[1])
    assert torch.equal(noises[0], noises[2])


@pytest.mark.parametrize(
    ("representation", "timesteps"),
    [("latents", "LinearTimesteps"), ("nerf", "PiecewiseLinearTimesteps")],
)
def test_cfd_has_the_settings_of_its_paper(representation: str, timesteps: str) -> None:
    chosen = {"method": "cfd", "representation": representation}
    e = default_experiment(("red disc",), chosen)
    assert type(e.method) is CFD
    assert type(e.timesteps).__name__ == timesteps
    assert type(e.weight).__name__ == "LambdaWeight"
    assert e.optimizer.beta1 == 0
    assert default_experiment(("red disc",), {"method": "asd", "model": "sd"}) == Experiment(
        ("red disc",)
    )


def test_every_noise_that_needs_views_is_tested_here() -> None:
    assert {cls.__name__ for cls in VIEW_NOISES} == {"TransportedNoise", "WorldMapNoise"}
    solid = {name for name, c in choices(RepresentationConfig).items() if "cameras" in vars(c)}
    assert solid == {"nerf", "dmtet", "gaussian-splats", "mesh"}


def test_the_command_line_finds_it_in_a_fresh_process() -> None:
    code = (
        "from limbeck.config.discovery import choices; "
        "from limbeck.distillation.noise import Noise; "
        "assert {'transported', 'world-map'} <= set(choices(Noise))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
