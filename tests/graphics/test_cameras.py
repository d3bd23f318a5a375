"""Cameras and camera samplers: geometry, distributions, prompts, and use in a run."""

import io
import math
from dataclasses import replace

import pytest
import torch
from ball_representation import Ball, Balls
from rich.console import Console
from tiny_pipeline import max_difference, rng, row_rng

from limbeck.diffusion.guidance import guided_prediction
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.camera import (
    look_at,
    orbit_cameras,
    turntable_cameras,
    unit_direction,
)
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import ORBIT_VIEWS, NoCamera, Orbit
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.runs.recorder import record
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

DEGREE = math.pi / 180
VIEW_PROMPTS = ("front view", "side view", "back view", "overhead view")


def random_cameras(count=64, seed=0):
    """Cameras away from the poles, and the uniform numbers they come from."""
    u = torch.rand(4, count, generator=rng(seed), dtype=torch.float64)
    azimuth, elevation = (2 * u[0] - 1) * math.pi, (u[1] - 0.5) * 170 * DEGREE
    return orbit_cameras(azimuth, elevation, 1 + 3 * u[2], 40.0), u


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


# cameras


def test_a_pose_is_a_right_handed_rotation():
    camera, _ = random_cameras()
    rotation = camera.pose[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    assert max_difference(rotation @ rotation.mT, identity) < 1e-12
    assert max_difference(torch.linalg.det(rotation), ones(64)) < 1e-12
    last_row = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    assert torch.equal(camera.pose[:, 3], last_row.expand(64, 4))


def test_a_front_camera_sees_x_to_the_right_and_y_up():
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), 3.0, 90.0)
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    pixels = camera.project(points, 10, 20)[0]
    expected = torch.tensor([[10, 5], [10 + 5 / 3, 5], [10, 5 - 5 / 3], [10, 5.0]])
    assert torch.allclose(pixels[:, :2], expected, atol=1e-5)
    assert torch.allclose(pixels[:, 2], torch.tensor([3.0, 3, 3, 2]), atol=1e-5)


@pytest.mark.parametrize(
    ("azimuth", "eye"), [(0, (0, 0, 1)), (90, (1, 0, 0)), (180, (0, 0, -1)), (-90, (-1, 0, 0))]
)
def test_azimuth_grows_from_z_to_x(azimuth, eye):
    camera = orbit_cameras(torch.tensor([azimuth * DEGREE]), torch.zeros(1), 1.0, 40.0)
    assert torch.allclose(camera.eye[0], torch.tensor(eye, dtype=torch.float32), atol=1e-6)
    right = camera.pose[0, :3, 0]  # azimuth grows towards the right of the image
    expected = unit_direction(torch.tensor([(azimuth + 90) * DEGREE]), torch.zeros(1))[0]
    assert torch.allclose(right, expected, atol=1e-6)


def test_angles_and_distance_are_recovered():
    camera, u = random_cameras()
    assert max_difference(camera.azimuth, (2 * u[0] - 1) * math.pi) < 1e-12
    assert max_difference(camera.elevation, (u[1] - 0.5) * 170 * DEGREE) < 1e-12
    assert max_difference(camera.distance, 1 + 3 * u[2]) < 1e-12
    assert max_difference(camera.fov, 40 * DEGREE * ones(64)) < 1e-12


def test_the_target_is_in_the_center_and_the_horizon_is_level():
    eye, at = torch.randn(2, 32, 3, generator=rng(1), dtype=torch.float64)
    camera = look_at(eye, at, 0.6 * ones(32))
    rows = [camera[torch.tensor([i])].project(at[i : i + 1], 12, 20)[0, 0] for i in range(32)]
    center = torch.stack(rows)
    expected = torch.tensor([10.0, 6], dtype=torch.float64).expand(32, 2)
    assert max_difference(center[:, :2], expected) < 1e-9
    assert max_difference(center[:, 2], (eye - at).norm(dim=1)) < 1e-12
    assert (camera.pose[:, 1, 1] > 0).all()
    assert camera.pose[:, 1, 0].abs().max() < 1e-12


def test_an_up_vector_rolls_the_image():
    eye = torch.tensor([[0.0, 0, 2]])
    camera = look_at(eye, torch.zeros(1, 3), torch.ones(1), torch.tensor([[1.0, 1, 0]]))
    up = camera.pose[0, :3, 1]
    assert torch.allclose(up, torch.tensor([1.0, 1, 0]) / 2**0.5, atol=1e-6)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_a_camera_at_a_pole_looks_at_the_origin(pole):
    camera = orbit_cameras(torch.zeros(1), torch.tensor([pole * DEGREE]), 2.0, 40.0)
    rotation = camera.pose[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5)
    center = camera.project(torch.zeros(1, 3), 8, 8)[0, 0]
    assert torch.allclose(center, torch.tensor([4.0, 4, 2]), atol=1e-5)


def test_from_overhead_the_front_is_at_the_bottom():
    for elevation in (80.0, 90.0):  # with and without the rule for poles
        camera = orbit_cameras(torch.zeros(1), torch.tensor([elevation * DEGREE]), 3.0, 40.0)
        assert camera.project(torch.tensor([[0.0, 0, 0.5]]), 8, 8)[0, 0, 1] > 4.5


@pytest.mark.parametrize("size", [(8, 8), (6, 14), (14, 6)])
def test_rays_and_projection_are_inverse(size):
    """A point on the ray of a pixel projects to the center of that pixel, at its depth."""
    camera, _ = random_cameras(8)
    h, w = size
    rays = camera.directions(h, w)
    assert rays.shape == (8, h, w, 3)
    assert max_difference(rays.norm(dim=-1), ones(8, h, w)) < 1e-12
    distance = 0.5 + torch.rand(8, h, w, generator=rng(2), dtype=torch.float64)
    points = camera.eye[:, None, None] + distance[..., None] * rays
    pixels = camera.project(points.reshape(8, -1, 3), h, w).view(8, h, w, 3)
    row, column = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    # pixel centers are float32
    assert max_difference(pixels[..., 0], column.double().expand(8, h, w)) < 1e-5
    assert max_difference(pixels[..., 1], row.double().expand(8, h, w)) < 1e-5
    forward = -camera.pose[:, :3, 2]
    depth = distance * torch.einsum("bhwi,bi->bhw", rays, forward)
    assert max_difference(pixels[..., 2], depth) < 1e-9


def test_the_field_of_view_is_vertical_and_reaches_the_edges():
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), 2.0, 50.0)
    top = torch.tensor([[0.0, 2 * math.tan(25 * DEGREE), 0]])
    for h, w in ((8, 8), (8, 24)):
        pixel = camera.project(top, h, w)[0, 0, :2]
        assert torch.allclose(pixel, torch.tensor([w / 2, 0.0]), atol=1e-5)
    ray = camera.directions(2, 2)[0][0, 1]
    slope = math.tan(25 * DEGREE) / 2  # pixel centers lie half way to the edge
    assert torch.allclose(ray / -ray[2], torch.tensor([slope, slope, -1.0]), atol=1e-6)


def test_each_camera_transforms_its_own_points():
    camera, _ = random_cameras(4)
    points = torch.randn(4, 5, 3, generator=rng(3), dtype=torch.float64)
    rows = torch.stack([camera[torch.tensor([i])].to_camera_space(points[i])[0] for i in range(4)])
    assert max_difference(camera.to_camera_space(points), rows) == 0


def test_a_turntable_goes_once_around():
    camera = turntable_cameras(8, 15.0, 3.6, 40.0)
    degrees = torch.remainder(camera.azimuth / DEGREE + 1e-3, 360)
    assert torch.allclose(degrees, torch.arange(8) * 45.0, atol=2e-2)
    assert torch.allclose(camera.elevation / DEGREE, torch.full((8,), 15.0), atol=1e-3)


def test_rows_of_cameras_and_requests():
    camera = turntable_cameras(4, 0.0, 2.0, 40.0)
    request = RenderRequest(torch.arange(4), camera, row_rng(4), 0.3)
    part = request[torch.tensor([2, 0])]
    assert len(part) == 2 and part.particle.tolist() == [2, 0]
    assert torch.equal(part.camera.pose, camera.pose[[2, 0]])
    assert part.rng.particle.tolist() == [2, 0] and part.progress == 0.3
    assert RenderRequest(torch.arange(3))[slice(0, 2)].camera is None


# sampling


def sampled(count=4000, seed=0, **options):
    orbit = Orbit(**options)
    particle = torch.arange(count) // orbit.per_particle
    return orbit.sample(count, RowRandom.of_step(seed, 0, particle))


def ks_statistic(values, cdf):
    """Kolmogorov-Smirnov distance from a distribution, times the root of the count."""
    x = values.double().sort().values
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    distance = max((steps[1:] - cdf(x)).abs().max(), (cdf(x) - steps[:-1]).abs().max())
    return distance.item() * len(x) ** 0.5


KS_BOUND = 1.63  #: exceeded by one in a hundred fair samples


@pytest.mark.parametrize("bounds", [(-10.0, 90.0), (0.0, 45.0), (-90.0, 90.0)])
def test_elevation_over_the_area_is_uniform_in_its_sine(bounds):
    low, high = (math.sin(b * DEGREE) for b in bounds)

    def sine_cdf(x):
        return (x.sin() - low) / (high - low)

    def angle_cdf(x):
        return (x / DEGREE - bounds[0]) / (bounds[1] - bounds[0])

    def mixed_cdf(x):
        return 0.5 * sine_cdf(x) + 0.5 * angle_cdf(x)

    over_area, over_angle, both = (
        sampled(elevation_range=bounds, uniform_sphere_prob=prob).elevation
        for prob in (1.0, 0.0, 0.5)
    )
    assert ks_statistic(over_area, sine_cdf) < KS_BOUND
    assert ks_statistic(over_angle, angle_cdf) < KS_BOUND
    assert ks_statistic(over_area, angle_cdf) > KS_BOUND
    assert ks_statistic(over_angle, sine_cdf) > KS_BOUND
    assert ks_statistic(both, mixed_cdf) < KS_BOUND


def test_distance_and_field_of_view_are_uniform_within_their_bounds():
    camera = sampled(camera_distance_range=(1.0, 1.5), fovy_range=(40.0, 70.0))
    assert ks_statistic(camera.distance, lambda x: (x - 1) / 0.5) < KS_BOUND
    assert ks_statistic(camera.fov, lambda x: (x / DEGREE - 40) / 30) < KS_BOUND


def one_per_sector(turns, shift):
    """Whether each of as many sectors as there are values, moved by a shift, holds one of them."""
    count = len(turns)
    sectors = torch.remainder(turns - shift, 1).mul(count).floor().long().clamp(max=count - 1)
    return sorted(sectors.tolist()) == list(range(count))


@pytest.mark.parametrize("count", [1, 4, 7])
def test_stratified_azimuths_cover_every_sector_once(count):
    starts = set()
    for seed in range(40):
        camera = sampled(count, seed, per_particle=count, elevation_range=(-5.0, 5.0))
        turns = torch.remainder(camera.azimuth / (2 * math.pi), 1).sort().values
        # the first sector starts anywhere: some shift must fit; gaps never exceed two sectors
        gaps = torch.cat([turns.diff(), turns[:1] + 1 - turns[-1:]])
        assert gaps.max() <= 2 / count + 1e-5
        shifts = (torch.arange(400) / 400 / count).tolist()
        assert any(one_per_sector(turns, shift) for shift in shifts), turns
        starts.add(turns[0].item())
    assert len(starts) == 40


def test_azimuth_is_uniform_stratified_or_not():
    def turns(azimuth):
        return torch.remainder(azimuth / (2 * math.pi), 1)

    stratified = torch.cat([sampled(4, seed, per_particle=4).azimuth for seed in range(500)])
    independent = sampled(2000, batch_uniform_azimuth=False).azimuth
    assert ks_statistic(turns(independent), lambda x: x) < KS_BOUND
    assert ks_statistic(turns(stratified), lambda x: x) < KS_BOUND


def test_particles_are_seen_from_everywhere():
    """With two views of two particles, neither particle is confined to half of the circle."""
    halves = torch.zeros(2, 2)
    for seed in range(200):
        front = sampled(4, seed, per_particle=2).azimuth.abs() < math.pi / 2
        for row in range(4):
            halves[row // 2, int(front[row])] += 1
    assert (halves / halves.sum(1, keepdim=True)).min() > 0.4


@pytest.mark.parametrize(("views", "particles"), [(2, 2), (4, 3), (3, 1)])
def test_views_of_a_particle_are_spread_around_it(views, particles):
    """Its k-th view lies in the k-th of ``views`` sectors, however many particles there are."""
    for seed in range(20):
        azimuth = sampled(views * particles, seed, per_particle=views).azimuth
        for turns in azimuth.view(particles, views) / (2 * math.pi):
            gaps = torch.remainder(turns.roll(-1) - turns, 1)
            assert (gaps - 1 / views).abs().max() < 1 / views
            assert abs(gaps.sum() - 1) < 1e-5


def test_perturbations_move_position_target_and_up():
    fixed = {"camera_distance_range": (3.0, 3.0)}
    plain = sampled(2000, **fixed)
    assert max_difference(plain.distance, torch.full((2000,), 3.0)) < 1e-5
    moved = (sampled(2000, **fixed, camera_perturb=0.1).distance - 3).abs()
    assert 0.02 < moved.mean() < 0.1 and moved.max() < 0.1 * 3**0.5 + 1e-5
    aimed = sampled(2000, **fixed, center_perturb=0.2)
    forward = -aimed.pose[:, :3, 2]
    miss = torch.linalg.cross(aimed.eye, forward).norm(dim=1)  # distance of the axis to the origin
    assert 0.15 < miss.mean() < 0.35 and torch.equal(aimed.eye, plain.eye)
    rolled = sampled(2000, **fixed, up_perturb=0.02)
    tilt = rolled.pose[:, 1, 0].abs()
    assert 0.005 < tilt.mean() < 0.05 and plain.pose[:, 1, 0].abs().max() < 1e-6
    assert torch.allclose(torch.linalg.det(rolled.pose[:, :3, :3]), torch.ones(2000), atol=1e-5)


def test_samples_depend_on_the_generator_only():
    assert torch.equal(sampled(5, 3).pose, sampled(5, 3).pose)
    assert not torch.equal(sampled(5, 3).pose, sampled(5, 4).pose)
    before = torch.get_rng_state()
    sampled(5, 3, camera_perturb=0.1, center_perturb=0.1, up_perturb=0.1)
    assert torch.equal(before, torch.get_rng_state())


def test_eval_cameras_are_in_the_middle_of_the_ranges():
    camera = Orbit(camera_distance_range=(1.0, 2.0), fovy_range=(40.0, 70.0)).eval_cameras(4)
    assert torch.allclose(camera.distance, torch.full((4,), 1.5))
    assert torch.allclose(camera.fov, torch.full((4,), 55 * DEGREE))
    explicit = Orbit(eval_camera=(30.0, 2.5, 20.0)).eval_cameras(2)
    assert torch.allclose(explicit.distance, torch.full((2,), 2.5))
    assert torch.allclose(explicit.elevation, torch.full((2,), 30 * DEGREE))
    views = Orbit().view_weights(camera, 4).argmax(1)
    assert [ORBIT_VIEWS[i] for i in views] == ["front", "side", "back", "side"]


# view-dependent prompts


def weights_at(*degrees, elevation=0.0, **options):
    """View weights of cameras at these azimuths."""
    azimuth = torch.tensor(degrees).float() * DEGREE
    camera = orbit_cameras(azimuth, torch.full_like(azimuth, elevation * DEGREE), 3.0, 40.0)
    return Orbit(**options).view_weights(camera, len(degrees))


def views_at(*degrees, **options):
    return [ORBIT_VIEWS[i] for i in weights_at(*degrees, **options).argmax(1)]


def test_thresholds_bound_the_views():
    degrees = (0, 44, 46, 134, 136, 180)
    expected = ["front", "front", "side", "side", "back", "back"]
    assert views_at(*degrees) == expected
    assert views_at(*(-d for d in degrees)) == expected
    narrow = views_at(29, 31, 149, 151, front_threshold=30.0)
    assert narrow == ["front", "side", "side", "back"]
    assert views_at(0, 90, 180, elevation=61.0) == ["overhead"] * 3
    assert views_at(0, 90, 180, elevation=61.0, blend_prompts=True) == ["overhead"] * 3
    assert views_at(0, 90, 180, elevation=59.0) == ["front", "side", "back"]


def test_view_prompts_are_appended_to_the_prompt():
    assert Orbit().prompts_by_view("a duck") == tuple(f"a duck, {text}" for text in VIEW_PROMPTS)
    some = Orbit(view_prompts=("front view", "", "", "from above"))
    expected = ("a duck, front view", "a duck", "a duck", "a duck, from above")
    assert some.prompts_by_view("a duck") == expected
    assert NoCamera().prompts_by_view("a duck") == ("a duck",)
    assert NoCamera().view_weights(None, 3).tolist() == [[1.0]] * 3


@pytest.mark.parametrize(("blend", "most_views"), [(False, 1), (True, 2)])
def test_view_weights_sum_to_one(blend, most_views):
    weights = weights_at(*torch.arange(-180, 181).float().tolist(), blend_prompts=blend)
    assert torch.allclose(weights.sum(1), torch.ones(361), atol=1e-6) and weights.min() >= 0
    assert (weights > 1e-6).sum(1).max() == most_views


def test_blended_weights_are_continuous_and_pure_at_the_named_views():
    fine = weights_at(*torch.linspace(-180, 180, 3601).tolist(), blend_prompts=True)
    assert fine.diff(dim=0).abs().max() < 0.1 / 90 + 1e-4
    pure = weights_at(0, 90, 180, -90, blend_prompts=True)
    assert torch.allclose(pure, torch.eye(4)[[0, 1, 2, 1]], atol=1e-5)
    between = weights_at(30, blend_prompts=True)[0]
    assert torch.allclose(between, torch.tensor([2 / 3, 1 / 3, 0, 0]), atol=1e-5)


def test_perp_neg_takes_the_two_other_views():
    orbit = Orbit(perp_neg=1.5)
    camera = orbit_cameras(torch.tensor([0.0, 90, 180]) * DEGREE, torch.zeros(3), 3.0, 40.0)
    indices = torch.stack([index for index, _ in orbit.perp_neg_weights(camera)])
    assert [sorted(column) for column in indices.T.tolist()] == [[1, 2], [0, 2], [0, 1]]
    assert all(weight.tolist() == [1.5] * 3 for _, weight in orbit.perp_neg_weights(camera))
    above = orbit_cameras(torch.zeros(1), torch.tensor([80 * DEGREE]), 3.0, 40.0)
    assert all(weight.tolist() == [0.0] for _, weight in orbit.perp_neg_weights(above))
    assert Orbit().perp_neg_weights(camera) == () and NoCamera().perp_neg_weights(None) == ()


# in a run


class ViewPrior:
    """The toy prior for any text: a text after a comma changes the condition slightly."""

    def __init__(self):
        self.toy = colored_shapes(size=12)

    def __getattr__(self, name):
        return getattr(self.toy, name)

    def __call__(self, xt, t, *conditions):
        return self.toy(xt, t, *conditions)

    def condition(self, prompts):
        heads = self.toy.condition([text.split(",")[0] for text in prompts])
        shifts = [
            VIEW_PROMPTS.index(text.split(", ")[1]) + 1 if "," in text else 0 for text in prompts
        ]
        shifts = 0.01 * torch.tensor(shifts).to(heads.data)[:, None]
        return replace(heads, data=heads.data + shifts)


def make_run(cameras=None, prompts=("a red disc", "a blue ring"), **options):
    defaults = {
        "prompts": prompts,
        "model": "gaussians",
        "method": SDS(7.5),
        "representation": Ball(),
        "cameras": cameras,
        "steps": 8,
    }
    return Run(Experiment(**defaults | options), ViewPrior())


def test_the_prior_gets_the_prompts_of_the_views():
    run = make_run(Orbit(), particles=2)
    azimuth = torch.tensor([0.0, 90, 180, -90, 20]) * DEGREE
    elevation = torch.tensor([0.0, 0, 0, 0, 80]) * DEGREE
    camera = orbit_cameras(azimuth, elevation, 3.6, 40.0)
    particle = torch.tensor([0, 1, 2, 3, 3])  # particles 0, 1 are of the first prompt
    conditions = run.prompts.conditions_for(particle, camera)
    texts = [
        "a red disc, front view",
        "a red disc, side view",
        "a blue ring, back view",
        "a blue ring, side view",
        "a blue ring, overhead view",
    ]
    assert torch.equal(conditions.pos.data, run.prior.condition(texts).data)
    assert torch.equal(conditions.null.data, run.prior.condition([""] * 5).data)
    assert conditions.perp_neg == ()


def test_a_blended_condition_lies_between_its_two_texts():
    run = make_run(Orbit(blend_prompts=True), prompts=("a red disc",))
    camera = orbit_cameras(torch.tensor([30.0, 150, 90]) * DEGREE, torch.zeros(3), 3.6, 40.0)
    conditions = run.prompts.conditions_for(torch.zeros(3, dtype=torch.long), camera).pos.data
    texts = [f"a red disc, {view} view" for view in ("front", "side", "back")]
    front, side, back = run.prior.condition(texts).data
    expected = torch.stack([(2 * front + side) / 3, (2 * back + side) / 3, side])
    finite = expected.isfinite()  # a class that no view allows stays at -inf and is no NaN
    assert finite.any()
    assert torch.allclose(conditions[finite], expected[finite], atol=1e-5)
    assert (conditions[~finite] == -math.inf).all()


def test_perp_neg_on_views_costs_two_network_evaluations():
    plain, perp_neg = (
        make_run(Orbit(perp_neg=weight), prompts=("a red disc",)) for weight in (0.0, 1.0)
    )
    camera = orbit_cameras(torch.tensor([90.0]) * DEGREE, torch.zeros(1), 3.6, 40.0)
    row = torch.zeros(1, dtype=torch.long)
    negatives = perp_neg.prompts.conditions_for(row, camera).perp_neg
    texts = [f"a red disc, {view} view" for view in ("front", "back")]
    expected = {tuple(data.tolist()) for data in perp_neg.prior.condition(texts).data}
    assert {tuple(condition.data[0].tolist()) for condition, _ in negatives} == expected
    xt, t = torch.randn(1, *perp_neg.prior.shape, generator=rng(5)), torch.tensor([0.5])
    costs = []
    for run in (plain, perp_neg):
        counter = run.prior.call_counter
        rows, calls = counter.rows, counter.calls
        guided_prediction(run.prior, xt, t, run.prompts.conditions_for(row, camera), 7.5)
        costs.append((counter.rows - rows, counter.calls - calls))
    assert costs == [(2, 1), (4, 1)]


def test_perp_neg_on_views_removes_the_perpendicular_part():
    run = make_run(Orbit(perp_neg=1.0), prompts=("a red disc",))
    camera = orbit_cameras(torch.tensor([90.0]) * DEGREE, torch.zeros(1), 3.6, 40.0)
    conditions = run.prompts.conditions_for(torch.zeros(1, dtype=torch.long), camera)
    xt, t = torch.randn(1, *run.prior.shape, generator=rng(5)), torch.tensor([0.5])
    negatives = [condition for condition, _ in conditions.perp_neg]
    null, pos, *negs = run.prior(xt, t, conditions.null, conditions.pos, *negatives)
    d = pos.eps - null.eps
    expected = null.eps + 7.5 * d
    for neg in negs:
        n = neg.eps - null.eps
        expected = expected - 7.5 * (n - (n * d).sum() / (d * d).sum() * d)
    guided = guided_prediction(run.prior, xt, t, conditions, 7.5).eps
    assert max_difference(guided, expected) < 2e-4 * expected.abs().max()


@pytest.mark.parametrize(("perp_neg", "texts"), [(0.0, 2), (2.0, 4)])
def test_a_step_evaluates_every_view_with_every_text(perp_neg, texts):
    run = make_run(Orbit(per_particle=3, perp_neg=perp_neg))
    run.advance()
    assert run.prior.call_counter.rows == 2 * 3 * texts  # particles, views, texts


def test_a_particle_receives_the_mean_over_its_views():
    """With one camera for all views, the update does not depend on their number."""

    class OneCamera(Orbit):
        def sample(self, count, rng):
            return turntable_cameras(1, 10.0, 3.6, 40.0)[torch.zeros(count, dtype=torch.long)]

    class OnesSDS(SDS):
        def __call__(self, prior, inputs, state):
            return torch.ones_like(inputs.x0)

    updates = []
    for views in (1, 3):
        cameras = OneCamera(per_particle=views)
        run = make_run(cameras, method=OnesSDS(1.0), weight=UniformWeight())
        run.optimizer = torch.optim.SGD(run.optimizer.param_groups[0]["params"], lr=1.0)
        run.peak_lrs = [1.0]
        parameters = list(run.representation.parameters())
        before = [p.detach().clone() for p in parameters]
        run.advance()
        updates.append([p.detach() - q for p, q in zip(parameters, before, strict=True)])
    difference = max(max_difference(a, b) for a, b in zip(*updates, strict=True))
    assert difference < 1e-5 * max(update.abs().max() for update in updates[0])


def test_cameras_belong_to_the_rows_of_their_particles():
    sampled_cameras = []

    class RecordingOrbit(Orbit):
        def sample(self, count, rng):
            camera = super().sample(count, rng)
            sampled_cameras.append(camera)
            return camera

    run = make_run(RecordingOrbit(per_particle=2), particles=2, batch_size=3)
    step = run.advance()
    particle = step.inputs.particle.tolist()
    assert particle == sorted(particle) and len(particle) == 6
    assert step.inputs.camera is sampled_cameras[0] and len(sampled_cameras[0]) == 6


def test_eval_requests_go_particle_by_particle():
    request = make_run(particles=2).eval_request(4)
    assert request.particle.tolist() == [k for k in range(4) for _ in range(4)]
    assert request.rng is None and request.progress == 1
    assert torch.equal(request.camera.pose[:4], request.camera.pose[4:8])


def test_a_3d_run_resumes_bit_for_bit():
    def new_run():
        orbit = Orbit(per_particle=2, camera_perturb=0.1, blend_prompts=True, perp_neg=0.5)
        return make_run(orbit, particles=2, batch_size=2)

    whole, first, resumed = new_run(), new_run(), new_run()
    for _ in range(8):
        whole.advance()
    for _ in range(3):
        first.advance()
    resumed.load({name: value.clone() for name, value in first.tensors().items()}, 3)
    for _ in range(5):
        resumed.advance()
    pairs = zip(whole.tensors().values(), resumed.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_ball_takes_the_color_of_its_prompt():
    run = make_run(Orbit(per_particle=2), prompts=("a red disc",), steps=60)
    assert isinstance(run.representation, Balls)
    for _ in range(60):
        run.advance()
    red, green, blue = run.representation.gather("color", torch.tensor([0])).sigmoid()[0].tolist()
    assert red > 2 * max(green, blue)


@pytest.mark.parametrize("representation", [Latents(), Pixels()])
def test_2d_runs_have_no_cameras(representation):
    """``cameras=NoCamera()`` is the default of 2D runs and draws nothing from the generator."""
    e = Experiment(
        ("a red disc", "a blue ring"),
        model="gaussians",
        method=SDS(7.5),
        representation=representation,
        particles=2,
        batch_size=3,
        steps=4,
    )
    runs = [Run(one, colored_shapes(size=12)) for one in (e, replace(e, cameras=NoCamera()))]
    for run in runs:
        for _ in range(4):
            step = run.advance()
        assert step.inputs.camera is None
    pairs = zip(runs[0].tensors().values(), runs[1].tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    texts = ["a red disc", "a red disc", "a blue ring", "a blue ring"]
    conditions = colored_shapes(size=12).condition(texts).data
    assert torch.equal(runs[0].prompts.conditions_for(torch.arange(4)).pos.data, conditions)
    inputs, schedule = step.inputs, runs[0].prior.schedule
    drawn = RowRandom.of_step(e.run_seed, 3, inputs.particle)
    t = e.timesteps(3, 4, 3, schedule, drawn)
    assert torch.equal(inputs.t, schedule.snap(t).to(inputs.t))
    noise = e.noise(drawn, tuple(inputs.x0.shape[1:]))
    assert torch.equal(inputs.eps, noise.to(inputs.eps))


def test_a_3d_run_is_recorded(tmp_path):
    e = Experiment(("a red disc",), model="gaussians", representation=Ball(), particles=2, steps=2)
    page = record(e, ViewPrior(), tmp_path / "run", console=Console(file=io.StringIO()))
    assert page.exists()


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera_distance_range": (4.0, 3.0)}, "camera_distance_range takes a lower and an upper"),
        ({"camera_distance_range": (0.0, 3.0)}, "camera_distance_range takes"),
        ({"fovy_range": (40.0, 175.0)}, "fovy_range takes"),
        ({"elevation_range": (-95.0, 10.0)}, "elevation_range takes"),
        ({"eval_camera": (15.0, -3.0, 40.0)}, "eval_camera takes .* a distance of at least 0"),
        ({"eval_camera": (100.0, 0.0, 0.0)}, r"an elevation in \[-90, 90\]"),
        ({"eval_camera": (15.0, 0.0, 200.0)}, r"field of view of 0 or in \[1, 170\], not"),
        ({"front_threshold": 95.0}, r"front_threshold must be in \[0.5, 89.5\], not 95"),
        ({"uniform_sphere_prob": 1.5}, r"uniform_sphere_prob must be in \[0, 1\], not 1.5"),
        ({"camera_perturb": -0.1}, "camera_perturb must not be negative"),
        ({"center_perturb": -0.1}, "center_perturb must not"),
        ({"up_perturb": -1.0}, "up_perturb must not"),
        ({"perp_neg": -1.0}, "perp_neg must not"),
        ({"per_particle": 0}, "per_particle must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Orbit(**options)


def test_the_sampler_must_fit_the_representation():
    with pytest.raises(
        ValueError, match="cameras orbit do not suit the representation pixels; use none"
    ):
        Experiment(("a red disc",), representation=Pixels(), cameras=Orbit())
    with pytest.raises(
        ValueError, match="cameras none do not suit the representation ball; use orbit"
    ):
        Experiment(("a red disc",), representation=Ball(), cameras=NoCamera())
    with pytest.raises(
        ValueError, match="source_prompt edits images, but the representation ball is 3D"
    ):
        Experiment(("a red disc",), representation=Ball(), source_prompt=("a blue disc",))
    assert isinstance(Experiment(("a red disc",), representation=Ball()).camera_sampler, Orbit)
    with pytest.raises(ValueError, match="needs the cameras"):
        Orbit().view_weights(None, 2)
