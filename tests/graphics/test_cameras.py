"""Cameras, views and sides: against closed forms, in distribution, in words, and through one step of a run."""

import io
import math
from dataclasses import replace

import pytest
import torch
from ball_representation import Ball, Balls
from rich.console import Console
from tiny_pipeline import rng, worst

from limbeck.diffusion.guidance import guided_prediction
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.camera import (
    look_at,
    orbit_cameras,
    turntable_cameras,
    unit_direction,
)
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.views import SIDES, NoCamera, Orbit
from limbeck.methods.sds import SDS
from limbeck.priors.exact import coloured_shapes
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.runs.recorder import record
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

DEGREE = math.pi / 180
WORDS = ("front view", "side view", "back view", "overhead view")


def some(count=64, seed=0):
    """Cameras anywhere but at the poles."""
    u = torch.rand(4, count, generator=rng(seed), dtype=torch.float64)
    return orbit_cameras(
        (2 * u[0] - 1) * math.pi, (u[1] - 0.5) * 170 * DEGREE, 1 + 3 * u[2], 40.0
    ), u


# cameras


def test_a_pose_is_a_turn_of_a_right_handed_space():
    camera, _ = some()
    turn = camera.pose[:, :3, :3]
    assert worst(turn @ turn.mT, torch.eye(3, dtype=torch.float64).expand_as(turn)) < 1e-12
    assert worst(torch.linalg.det(turn), torch.ones(64, dtype=torch.float64)) < 1e-12
    assert torch.equal(
        camera.pose[:, 3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(64, 4)
    )


def test_a_camera_before_the_object_sees_it_as_people_would():
    """From +z: +x is at the right, +y at the top, what is nearer has less depth."""
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), 3.0, 90.0)
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    pixels = camera.project(points, 10, 20)[0]
    assert torch.allclose(
        pixels[:, :2],
        torch.tensor([[10, 5], [10 + 5 / 3, 5], [10, 5 - 5 / 3], [10, 5.0]]),
        atol=1e-5,
    )
    assert torch.allclose(pixels[:, 2], torch.tensor([3.0, 3, 3, 2]), atol=1e-5)


@pytest.mark.parametrize(
    ("azimuth", "eye"), [(0, (0, 0, 1)), (90, (1, 0, 0)), (180, (0, 0, -1)), (-90, (-1, 0, 0))]
)
def test_azimuth_turns_from_z_to_x(azimuth, eye):
    camera = orbit_cameras(torch.tensor([azimuth * DEGREE]), torch.zeros(1), 1.0, 40.0)
    assert torch.allclose(camera.eye[0], torch.tensor(eye, dtype=torch.float32), atol=1e-6)
    right = camera.pose[0, :3, 0]  # as seen from there, y up: to the right is where azimuth grows
    assert torch.allclose(
        right, unit_direction(torch.tensor([(azimuth + 90) * DEGREE]), torch.zeros(1))[0], atol=1e-6
    )


def test_angles_and_distance_come_back():
    camera, u = some()
    assert worst(camera.azimuth, (2 * u[0] - 1) * math.pi) < 1e-12
    assert worst(camera.elevation, (u[1] - 0.5) * 170 * DEGREE) < 1e-12
    assert worst(camera.distance, 1 + 3 * u[2]) < 1e-12
    assert worst(camera.fov, torch.full((64,), 40 * DEGREE, dtype=torch.float64)) < 1e-12


def test_the_target_is_in_the_middle_and_up_is_up():
    eye, at = torch.randn(2, 32, 3, generator=rng(1), dtype=torch.float64)
    camera = look_at(eye, at, torch.full((32,), 0.6, dtype=torch.float64))
    middle = torch.stack(
        [camera[torch.tensor([i])].project(at[i : i + 1], 12, 20)[0, 0] for i in range(32)]
    )
    assert worst(middle[:, :2], torch.tensor([10.0, 6], dtype=torch.float64).expand(32, 2)) < 1e-9
    assert worst(middle[:, 2], (eye - at).norm(dim=1)) < 1e-12
    assert (camera.pose[:, 1, 1] > 0).all() and camera.pose[
        :, 1, 0
    ].abs().max() < 1e-12  # the horizon is level


def test_an_up_of_one_s_own_rolls_the_picture():
    eye = torch.tensor([[0.0, 0, 2]])
    camera = look_at(eye, torch.zeros(1, 3), torch.ones(1), torch.tensor([[1.0, 1, 0]]))
    up = camera.pose[0, :3, 1]
    assert torch.allclose(up, torch.tensor([1.0, 1, 0]) / 2**0.5, atol=1e-6)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_at_a_pole_the_picture_is_finite_and_looks_at_the_origin(pole):
    camera = orbit_cameras(torch.zeros(1), torch.tensor([pole * DEGREE]), 2.0, 40.0)
    turn = camera.pose[0, :3, :3]
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-5)
    assert torch.allclose(
        camera.project(torch.zeros(1, 3), 8, 8)[0, 0], torch.tensor([4.0, 4, 2]), atol=1e-5
    )


def test_from_overhead_the_front_lies_at_the_bottom():
    for elevation in (80.0, 90.0):  # with and without the rule for poles
        camera = orbit_cameras(torch.zeros(1), torch.tensor([elevation * DEGREE]), 3.0, 40.0)
        assert camera.project(torch.tensor([[0.0, 0, 0.5]]), 8, 8)[0, 0, 1] > 4.5


@pytest.mark.parametrize("size", [(8, 8), (6, 14), (14, 6)])
def test_rays_and_projection_are_each_other_s_inverse(size):
    """A point on the ray of a pixel falls into the middle of that pixel, at its depth."""
    camera, _ = some(8)
    h, w = size
    rays = camera.directions(h, w)
    assert (
        rays.shape == (8, h, w, 3)
        and worst(rays.norm(dim=-1), torch.ones(8, h, w, dtype=torch.float64)) < 1e-12
    )
    far = 0.5 + torch.rand(8, h, w, generator=rng(2), dtype=torch.float64)
    pixels = camera.project(
        (camera.eye[:, None, None] + far[..., None] * rays).reshape(8, -1, 3), h, w
    ).view(8, h, w, 3)
    row, column = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    assert (
        worst(pixels[..., 0], column.double().expand(8, h, w)) < 1e-5
    )  # middles of pixels are float32
    assert worst(pixels[..., 1], row.double().expand(8, h, w)) < 1e-5
    ahead = -camera.pose[:, :3, 2]
    assert worst(pixels[..., 2], far * torch.einsum("bhwi,bi->bhw", rays, ahead)) < 1e-9


def test_the_field_of_view_is_vertical_and_reaches_the_edges():
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), 2.0, 50.0)
    top = torch.tensor([[0.0, 2 * math.tan(25 * DEGREE), 0]])
    for h, w in ((8, 8), (8, 24)):
        assert torch.allclose(
            camera.project(top, h, w)[0, 0, :2], torch.tensor([w / 2, 0.0]), atol=1e-5
        )
    rays = camera.directions(2, 2)[0]
    slope = math.tan(25 * DEGREE) / 2  # pixel middles lie half way to the edge
    assert torch.allclose(
        rays[0, 1] / -rays[0, 1, 2], torch.tensor([slope, slope, -1.0]), atol=1e-6
    )


def test_points_of_each_camera_s_own_are_taken_row_by_row():
    camera, _ = some(4)
    points = torch.randn(4, 5, 3, generator=rng(3), dtype=torch.float64)
    rows = torch.stack([camera[torch.tensor([i])].to_camera_space(points[i])[0] for i in range(4)])
    assert worst(camera.to_camera_space(points), rows) == 0


def test_a_turntable_goes_once_around():
    camera = turntable_cameras(8, 15.0, 3.6, 40.0)
    turns = torch.remainder(camera.azimuth / DEGREE + 1e-3, 360)
    assert torch.allclose(turns, torch.arange(8) * 45.0, atol=2e-2)
    assert torch.allclose(camera.elevation / DEGREE, torch.full((8,), 15.0), atol=1e-3)


def test_rows_of_cameras_and_views():
    camera = turntable_cameras(4, 0.0, 2.0, 40.0)
    view = RenderRequest(torch.arange(4), camera, rng(0), 0.3)
    part = view[torch.tensor([2, 0])]
    assert part.particle.tolist() == [2, 0] and torch.equal(part.camera.pose, camera.pose[[2, 0]])
    assert (
        part.rng is view.rng
        and part.progress == 0.3
        and len(part) == 2
        and RenderRequest(torch.arange(3))[slice(0, 2)].camera is None
    )


# what is drawn


def drawn(count=4000, seed=0, **options):
    return Orbit(**options).sample(count, rng(seed))


def apart(values, cdf):
    """Kolmogorov and Smirnov's greatest distance between the shares below and a distribution, times the root of the count."""
    x = values.double().sort().values
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return (
        max((steps[1:] - cdf(x)).abs().max(), (cdf(x) - steps[:-1]).abs().max()).item()
        * len(x) ** 0.5
    )


BOUND = 1.63  #: which one in a hundred fair samples exceeds


@pytest.mark.parametrize("bounds", [(-10.0, 90.0), (0.0, 45.0), (-90.0, 90.0)])
def test_elevation_over_the_area_is_uniform_in_its_sine(bounds):
    low, high = (math.sin(b * DEGREE) for b in bounds)
    by_area, by_angle = (
        drawn(elevation=bounds, uniform_sphere_prob=share).elevation for share in (1.0, 0.0)
    )
    of_sine = lambda x: (x.sin() - low) / (high - low)  # noqa: E731
    of_angle = lambda x: (x / DEGREE - bounds[0]) / (bounds[1] - bounds[0])  # noqa: E731
    assert apart(by_area, of_sine) < BOUND and apart(by_angle, of_angle) < BOUND
    assert apart(by_area, of_angle) > BOUND and apart(by_angle, of_sine) > BOUND
    both = drawn(elevation=bounds, uniform_sphere_prob=0.5).elevation
    assert apart(both, lambda x: 0.5 * of_sine(x) + 0.5 * of_angle(x)) < BOUND


def test_distance_and_field_of_view_are_uniform_within_their_bounds():
    camera = drawn(distance=(1.0, 1.5), fov=(40.0, 70.0))
    assert apart(camera.distance, lambda x: (x - 1) / 0.5) < BOUND
    assert apart(camera.fov, lambda x: (x / DEGREE - 40) / 30) < BOUND


@pytest.mark.parametrize("count", [1, 4, 7])
def test_stratified_azimuths_cover_every_sector_once(count):
    starts = []
    for seed in range(40):
        camera = drawn(count, seed, elevation=(-5.0, 5.0))
        turns = torch.remainder(camera.azimuth / (2 * math.pi), 1).sort().values
        # sectors of any start: some shift puts one azimuth into each; their gaps never exceed two sectors
        gaps = torch.cat([turns.diff(), turns[:1] + 1 - turns[-1:]])
        assert gaps.max() <= 2 / count + 1e-5
        fits = any(
            sorted(
                torch.remainder(turns - shift, 1)
                .mul(count)
                .floor()
                .long()
                .clamp(max=count - 1)
                .tolist()
            )
            == list(range(count))
            for shift in (torch.arange(400) / 400 / count).tolist()
        )
        assert fits, turns
        starts.append(turns[0].item())
    assert len(set(starts)) == 40


def test_azimuth_is_uniform_stratified_or_not():
    one_each = torch.cat([drawn(4, seed).azimuth for seed in range(500)])
    free = drawn(2000, stratified=False).azimuth
    turns = lambda x: torch.remainder(x / (2 * math.pi), 1)  # noqa: E731
    assert apart(turns(free), lambda x: x) < BOUND and apart(turns(one_each), lambda x: x) < BOUND


def test_particles_are_seen_from_every_side():
    """Each view after another belongs to one particle: with two views of two particles, neither has only one half of the circle."""
    halves = torch.zeros(2, 2)
    for seed in range(200):
        front = drawn(4, seed).azimuth.abs() < math.pi / 2
        for row in range(4):
            halves[row // 2, int(front[row])] += 1
    assert (halves / halves.sum(1, keepdim=True)).min() > 0.4


@pytest.mark.parametrize("each, particles", [(2, 2), (4, 3), (3, 1)])
def test_views_of_a_particle_go_all_around_it(each, particles):
    """Its k-th view lies in the k-th of as many sectors as it has views, however many particles there are."""
    for seed in range(20):
        turns = drawn(each * particles, seed, per_particle=each).azimuth.view(particles, each) / (
            2 * math.pi
        )
        for own in turns:
            gaps = torch.remainder(own.roll(-1) - own, 1)
            assert (gaps - 1 / each).abs().max() < 1 / (each * particles) and abs(
                gaps.sum() - 1
            ) < 1e-5


def test_jitter_aim_and_roll_move_what_they_say():
    plain = drawn(2000, distance=(3.0, 3.0))
    assert worst(plain.distance, torch.full((2000,), 3.0)) < 1e-5
    moved = drawn(2000, distance=(3.0, 3.0), camera_perturb=0.1)
    assert (
        0.02 < (moved.distance - 3).abs().mean() < 0.1
        and (moved.distance - 3).abs().max() < 0.1 * 3**0.5 + 1e-5
    )
    aimed = drawn(2000, distance=(3.0, 3.0), center_perturb=0.2)
    ahead = -aimed.pose[:, :3, 2]
    off = torch.linalg.cross(aimed.eye, ahead).norm(dim=1)  # how far past the origin each one looks
    assert 0.15 < off.mean() < 0.35 and torch.equal(aimed.eye, plain.eye)
    rolled = drawn(2000, distance=(3.0, 3.0), up_perturb=0.02)
    tilt = rolled.pose[:, 1, 0].abs()
    assert 0.005 < tilt.mean() < 0.05 and plain.pose[:, 1, 0].abs().max() < 1e-6
    assert torch.allclose(torch.linalg.det(rolled.pose[:, :3, :3]), torch.ones(2000), atol=1e-5)


def test_draws_are_a_function_of_the_generator():
    assert torch.equal(drawn(5, 3).pose, drawn(5, 3).pose) and not torch.equal(
        drawn(5, 3).pose, drawn(5, 4).pose
    )
    before = torch.get_rng_state()
    drawn(5, 3, camera_perturb=0.1, center_perturb=0.1, up_perturb=0.1)
    assert torch.equal(before, torch.get_rng_state())


def test_results_are_looked_at_from_the_middle_of_the_draws():
    camera = Orbit(distance=(1.0, 2.0), fov=(40.0, 70.0)).eval_cameras(4)
    assert torch.allclose(camera.distance, torch.full((4,), 1.5)) and torch.allclose(
        camera.fov, torch.full((4,), 55 * DEGREE)
    )
    shown = Orbit(eval_camera=(30.0, 2.5, 20.0)).eval_cameras(2)
    assert torch.allclose(shown.distance, torch.full((2,), 2.5)) and torch.allclose(
        shown.elevation, torch.full((2,), 30 * DEGREE)
    )
    sides = Orbit().view_weights(camera, 4).argmax(1)
    assert [SIDES[i] for i in sides] == ["front", "side", "back", "side"]


# what is said


def at(*degrees, elevation=0.0, **options):
    """Shares of the sides of cameras at azimuths."""
    camera = orbit_cameras(
        torch.tensor(degrees).float() * DEGREE,
        torch.full((len(degrees),), elevation * DEGREE),
        3.0,
        40.0,
    )
    return Orbit(**options).view_weights(camera, len(degrees))


def said(*degrees, **options):
    return [SIDES[i] for i in at(*degrees, **options).argmax(1)]


def test_sectors_have_the_widths_they_are_given():
    assert said(0, 44, 46, 134, 136, 180, -44, -46, -134, -136, -180) == [
        "front", "front", "side", "side", "back", "back", "front", "side", "side", "back", "back"]  # fmt: skip
    assert said(29, 31, 149, 151, front=60.0) == ["front", "side", "side", "back"]
    assert (
        said(0, 90, 180, elevation=61.0)
        == ["overhead"] * 3
        == said(0, 90, 180, elevation=61.0, blend=True)
    )
    assert said(0, 90, 180, elevation=59.0) == ["front", "side", "back"]


def test_words_follow_the_prompt():
    assert Orbit().prompts_by_view("a duck") == tuple(f"a duck, {word}" for word in WORDS)
    assert Orbit(view_prompts=("front view", "", "", "from above")).prompts_by_view("a duck") == (
        "a duck, front view", "a duck", "a duck", "a duck, from above")  # fmt: skip
    assert (
        NoCamera().prompts_by_view("a duck") == ("a duck",)
        and NoCamera().view_weights(None, 3).tolist() == [[1.0]] * 3
    )


def test_shares_sum_to_one_and_a_hard_choice_is_one():
    around_it = torch.arange(-180, 181).float().tolist()
    for blend in (False, True):
        shares = at(*around_it, blend=blend)
        assert torch.allclose(shares.sum(1), torch.ones(361), atol=1e-6) and shares.min() >= 0
        assert (shares > 1e-6).sum(1).max() == (
            2 if blend else 1
        )  # of which told_to takes the two greatest


def test_a_blend_is_continuous_and_pure_at_the_named_sides():
    fine = at(*torch.linspace(-180, 180, 3601).tolist(), blend=True)
    assert fine.diff(dim=0).abs().max() < 0.1 / 90 + 1e-4
    pure = at(0, 90, 180, -90, blend=True)
    assert torch.allclose(pure, torch.eye(4)[[0, 1, 2, 1]], atol=1e-5)
    assert torch.allclose(at(30, blend=True)[0], torch.tensor([2 / 3, 1 / 3, 0, 0]), atol=1e-5)


def test_keeping_away_names_the_two_other_sides():
    views = Orbit(perp_neg=1.5)
    camera = orbit_cameras(torch.tensor([0.0, 90, 180]) * DEGREE, torch.zeros(3), 3.0, 40.0)
    places = torch.stack([place for place, _ in views.perp_neg_weights(camera)])
    assert [sorted(column) for column in places.T.tolist()] == [[1, 2], [0, 2], [0, 1]]
    assert all(weight.tolist() == [1.5] * 3 for _, weight in views.perp_neg_weights(camera))
    above = orbit_cameras(torch.zeros(1), torch.tensor([80 * DEGREE]), 3.0, 40.0)
    assert all(weight.tolist() == [0.0] for _, weight in views.perp_neg_weights(above))
    assert Orbit().perp_neg_weights(camera) == () and NoCamera().perp_neg_weights(None) == ()


# through a run


def run_of(cameras=None, prompts=("a red disc", "a blue ring"), **options):
    plain = {
        "prompts": prompts,
        "model": "gaussians",
        "method": SDS(7.5),
        "representation": Ball(),
        "cameras": cameras,
        "steps": 8,
    }
    return Run(Experiment(**plain | options), Worded())


class Worded:
    """The toy prior, that takes any text: what follows a comma only turns the condition a little, each word its own way."""

    def __init__(self):
        self.toy = coloured_shapes(size=12)

    def __getattr__(self, name):
        return getattr(self.toy, name)

    def __call__(self, xt, t, *conditions):
        return self.toy(xt, t, *conditions)

    def condition(self, prompts):
        heads = self.toy.condition([text.split(",")[0] for text in prompts])
        tails = [WORDS.index(text.split(", ")[1]) + 1 if "," in text else 0 for text in prompts]
        return replace(heads, data=heads.data + 0.01 * torch.tensor(tails).to(heads.data)[:, None])


def test_the_words_told_to_the_prior_are_those_of_prompt_and_side():
    run = run_of(Orbit(), particles=2)
    camera = orbit_cameras(
        torch.tensor([0.0, 90, 180, -90, 20]) * DEGREE,
        torch.tensor([0.0, 0, 0, 0, 80]) * DEGREE,
        3.6,
        40.0,
    )
    view = torch.tensor([0, 1, 2, 3, 3])  # particles 0, 1 are of the first prompt
    conditions = run.conditions_for(view, camera)
    texts = ["a red disc, front view", "a red disc, side view", "a blue ring, back view", "a blue ring, side view",
             "a blue ring, overhead view"]  # fmt: skip
    assert torch.equal(conditions.pos.data, run.prior.condition(texts).data)
    assert (
        torch.equal(conditions.null.data, run.prior.condition([""] * 5).data)
        and conditions.perp_neg == ()
    )


def test_a_blend_lies_between_its_two_texts():
    run = run_of(Orbit(blend=True), prompts=("a red disc",))
    camera = orbit_cameras(torch.tensor([30.0, 150, 90]) * DEGREE, torch.zeros(3), 3.6, 40.0)
    conditions = run.conditions_for(torch.zeros(3, dtype=torch.long), camera).pos.data
    front, side, back = (
        run.prior.condition([f"a red disc, {word} view"]).data[0]
        for word in ("front", "side", "back")
    )
    expected = torch.stack([(2 * front + side) / 3, (2 * back + side) / 3, side])
    finite = expected.isfinite()  # a class that no side allows stays so, and is no nan
    assert (
        finite.any()
        and torch.allclose(conditions[finite], expected[finite], atol=1e-5)
        and (conditions[~finite] == -math.inf).all()
    )


def test_keeping_away_from_other_sides_costs_two_passes_and_is_perp_neg():
    near, away = (run_of(Orbit(perp_neg=weight), prompts=("a red disc",)) for weight in (0.0, 1.0))
    camera = orbit_cameras(torch.tensor([90.0]) * DEGREE, torch.zeros(1), 3.6, 40.0)
    row = torch.zeros(1, dtype=torch.long)
    conditions = away.conditions_for(row, camera)
    texts = [text.data for text, _ in conditions.perp_neg]
    expected = {
        tuple(away.prior.condition([f"a red disc, {word} view"]).data[0].tolist())
        for word in ("front", "back")
    }
    assert {tuple(text[0].tolist()) for text in texts} == expected
    xt, t = torch.randn(1, *away.prior.shape, generator=rng(5)), torch.tensor([0.5])
    asked = []
    for run, conditions in ((near, near.conditions_for(row, camera)), (away, conditions)):
        before = run.prior.meter.rows, run.prior.meter.calls
        guided_prediction(run.prior, xt, t, conditions, 7.5)
        asked.append((run.prior.meter.rows - before[0], run.prior.meter.calls - before[1]))
    assert asked == [(2, 1), (4, 1)]
    null, pos, *negs = away.prior(
        xt, t, conditions.null, conditions.pos, *(text for text, _ in conditions.perp_neg)
    )
    d = pos.eps - null.eps
    expected_eps = null.eps + 7.5 * d
    for neg in negs:
        n = neg.eps - null.eps
        expected_eps = expected_eps - 7.5 * (n - (n * d).sum() / (d * d).sum() * d)
    assert (
        worst(guided_prediction(away.prior, xt, t, conditions, 7.5).eps, expected_eps)
        < 2e-4 * expected_eps.abs().max()
    )


def test_a_step_costs_what_its_views_cost():
    for perpendicular, rows in ((0.0, 2), (2.0, 4)):
        run = run_of(Orbit(per_particle=3, perp_neg=perpendicular))
        run.advance()
        assert run.prior.meter.rows == 2 * 3 * rows  # particles, views of each, texts


def test_a_particle_receives_the_mean_over_its_views():
    """Twice the views change how well the mean is known, not its size: with one camera for all of them it is the very same."""

    class Same(Orbit):
        def sample(self, count, rng):
            return turntable_cameras(1, 10.0, 3.6, 40.0)[torch.zeros(count, dtype=torch.long)]

    class Still(SDS):
        def __call__(self, prior, sample, state):
            return torch.ones_like(sample.x0)

    moved = []
    for each in (1, 3):
        run = run_of(Same(per_particle=each), method=Still(1.0), weight=UniformWeight())
        run.optimizer = torch.optim.SGD(run.optimizer.param_groups[0]["params"], lr=1.0)
        run.peak_lrs = [1.0]
        before = [p.detach().clone() for p in run.representation.parameters()]
        run.advance()
        moved.append(
            [p.detach() - q for p, q in zip(run.representation.parameters(), before, strict=True)]
        )
    assert max(worst(a, b) for a, b in zip(*moved, strict=True)) < 1e-5 * max(
        m.abs().max() for m in moved[0]
    )


def test_cameras_belong_to_the_rows_of_their_particles():
    seen = []

    class Looked(Orbit):
        def sample(self, count, rng):
            camera = super().sample(count, rng)
            seen.append(camera)
            return camera

    run = run_of(Looked(per_particle=2), particles=2, batch_size=3)
    step = run.advance()
    assert (
        step.sample.particle.tolist() == sorted(step.sample.particle.tolist())
        and len(step.sample.particle) == 6
    )
    assert step.sample.camera is seen[0] and len(seen[0]) == 6


def test_results_are_looked_at_particle_by_particle():
    run = run_of(particles=2)
    view = run.eval_request(4)
    assert (
        view.particle.tolist() == [k for k in range(4) for _ in range(4)]
        and view.rng is None
        and view.progress == 1
    )
    assert torch.equal(view.camera.pose[:4], view.camera.pose[4:8])


def test_a_run_of_solids_goes_on_bit_by_bit():
    whole = run_of(
        Orbit(per_particle=2, camera_perturb=0.1, blend=True, perp_neg=0.5),
        particles=2,
        batch_size=2,
    )
    for _ in range(8):
        whole.advance()
    first = run_of(
        Orbit(per_particle=2, camera_perturb=0.1, blend=True, perp_neg=0.5),
        particles=2,
        batch_size=2,
    )
    for _ in range(3):
        first.advance()
    kept = {name: value.clone() for name, value in first.tensors().items()}
    again = run_of(
        Orbit(per_particle=2, camera_perturb=0.1, blend=True, perp_neg=0.5),
        particles=2,
        batch_size=2,
    )
    again.load(kept, 3)
    for _ in range(5):
        again.advance()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True)
    )


def test_a_red_ball_comes_out_of_a_red_prompt():
    """The very method of pictures, through cameras: the ball takes the colour of its prompt."""
    run = run_of(Orbit(per_particle=2), prompts=("a red disc",), steps=60)
    assert isinstance(run.representation, Balls)
    for _ in range(60):
        run.advance()
    red, green, blue = run.representation.gather("colour", torch.tensor([0])).sigmoid()[0].tolist()
    assert red > 2 * max(green, blue)


@pytest.mark.parametrize("representation", [Latents(), Pixels()])
def test_flat_runs_are_unchanged_bit_for_bit(representation):
    """Said or not, flat views draw nothing and say nothing: the step is the step of a run that knows no views."""
    e = Experiment(("a red disc", "a blue ring"), model="gaussians", method=SDS(7.5), representation=representation, particles=2,
                   batch_size=3, steps=4)  # fmt: skip
    runs = [Run(one, coloured_shapes(size=12)) for one in (e, replace(e, cameras=NoCamera()))]
    for run in runs:
        for _ in range(4):
            step = run.advance()
        assert step.sample.camera is None
    assert all(
        torch.equal(a, b)
        for a, b in zip(runs[0].tensors().values(), runs[1].tensors().values(), strict=True)
    )
    plain = (
        coloured_shapes(size=12)
        .condition(["a red disc", "a red disc", "a blue ring", "a blue ring"])
        .data
    )
    assert torch.equal(runs[0].conditions_for(torch.arange(4)).pos.data, plain)
    draw = torch.Generator().manual_seed(
        e.seed * 1_000_003 + 3 + 500_009
    )  # of step 3: particles first, then times, then noise
    view = torch.randperm(4, generator=draw)[:3].sort().values
    assert torch.equal(step.sample.particle, view)
    t = e.timesteps(3, 4, 3, runs[0].prior.schedule, draw)
    assert torch.equal(step.sample.t, runs[0].prior.schedule.snap(t).to(step.sample.t))
    assert torch.equal(
        step.sample.eps,
        e.noise(view, tuple(step.sample.x0.shape[1:]), 3, e.seed, draw).to(step.sample.eps),
    )


# what is refused


@pytest.mark.parametrize(("options", "message"), [
    ({"distance": (4.0, 3.0)}, "distance takes a lower and an upper bound"), ({"distance": (0.0, 3.0)}, "distance takes"),
    ({"fov": (40.0, 175.0)}, "fov takes"), ({"elevation": (-95.0, 10.0)}, "elevation takes"), ({"front": 190.0}, "front takes"),
    ({"uniform_sphere_prob": 1.5}, "uniform_sphere_prob is a share"), ({"camera_perturb": -0.1}, "camera_perturb must not be negative"),
    ({"center_perturb": -0.1}, "center_perturb must not"), ({"up_perturb": -1.0}, "up_perturb must not"), ({"perp_neg": -1.0}, "perp_neg must not"),
    ({"per_particle": 0}, "per_particle must be at least 1"),
])  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Orbit(**options)


def test_views_must_suit_what_is_looked_at():
    with pytest.raises(ValueError, match="views orbit do not suit pixels, which takes flat"):
        Experiment(("a red disc",), representation=Pixels(), cameras=Orbit())
    with pytest.raises(ValueError, match="views flat do not suit ball, which takes orbit"):
        Experiment(("a red disc",), representation=Ball(), cameras=NoCamera())
    with pytest.raises(ValueError, match="edits are of pictures"):
        Experiment(("a red disc",), representation=Ball(), source_prompt=("a blue disc",))
    assert isinstance(Experiment(("a red disc",), representation=Ball()).camera_sampler, Orbit)
    with pytest.raises(ValueError, match="a camera is needed"):
        Orbit().view_weights(None, 2)


def test_a_run_of_solids_is_recorded(tmp_path):
    e = Experiment(("a red disc",), model="gaussians", representation=Ball(), particles=2, steps=2)
    page = record(e, Worded(), tmp_path / "run", console=Console(file=io.StringIO()))
    assert page.exists()
