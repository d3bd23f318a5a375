"""Groups of views stay whole through every part of a run."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from ball_representation import Ball
from grouped_prior import RING, GroupedDiffusion, check_rings
from tiny_pipeline import max_difference, row_rng, write_pipeline

from limbeck.config.discovery import choices
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.projections.sampled import SampledProjection
from limbeck.distillation.timesteps.base import RandomTimesteps, Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import Around, NoCamera, Orbit
from limbeck.graphics.rendering.shading import Shading
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.lmc import LMC
from limbeck.methods.reward_sds import RewardSDS
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.representations.latents import Latents
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.resources import trace_step
from limbeck.training.row_draws import draw_rows
from limbeck.training.trainer import Run

OF_IMAGES = {n for n, cls in choices(EditMethod).items() if cls.needs_source}
OPTIONS = {
    "esd": {"critic": LoRACritic(camera=True)},  # it must get the view
    "lmc": {"projection": SampledProjection(1)},
    "sdedit": {"denoise_steps": 3},
}  #: of methods whose defaults do not suit, or take long
TWO_RINGS = Around(per_particle=2 * RING)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = write_pipeline(tmp_path_factory.mktemp("pipeline"), "epsilon")
    return GroupedDiffusion(str(folder))


@pytest.fixture
def grouped(prior, monkeypatch):
    """The prior, with a count of the calls of groups."""
    monkeypatch.setattr(prior, "needs_cameras", False)
    monkeypatch.setattr(prior, "calls_of_groups", 0)
    return prior


def two_steps(e, prior):
    """A run whose every call in the steps must be one of whole groups."""
    run = Run(e, prior)  # a projection may be trained on images before the first step
    prior.needs_cameras = True
    run.advance()
    run.advance()
    return run


def experiment(method, **options):
    defaults = {"representation": Ball(), "cameras": TWO_RINGS, "steps": 2}
    return Experiment(("a red mug",), method=method, **defaults | options)


# cameras and draws


def test_a_ring_has_one_elevation_distance_and_view_and_equal_angles():
    cameras = Around(
        per_particle=12,
        views=3,
        fovy_range=(15.0, 60.0),
        camera_distance_range=(0.8, 1.0),
        relative_distance=True,
    )
    rng = RowRandom.of_step(0, 5, torch.arange(40).repeat_interleave(12), 3)
    camera = cameras.sample(480, rng)
    for values in (camera.elevation, camera.distance, camera.fov):
        rings = values.view(-1, 3)
        assert max_difference(rings, rings[:, :1].expand(-1, 3)) < 1e-6
        assert len(rings[:, 0].unique()) == 160  # and every ring its own
    steps = camera.azimuth.double().view(-1, 3).diff(dim=1) % (2 * math.pi)
    assert max_difference(steps, torch.full_like(steps, 2 * math.pi / 3)) < 1e-5
    relative = camera.distance * (camera.fov / 2).tan()
    assert 0.8 - 1e-5 < relative.min() < 0.81 and 0.99 < relative.max() < 1 + 1e-5
    start = camera.azimuth.view(-1, 3)[:, 0]
    assert start.min() < 0.1 and start.max() > 2 * math.pi / 3 - 0.1  # anywhere in a third


def test_relative_distances_reach_the_evaluation_cameras():
    cameras = Around(
        camera_distance_range=(0.8, 1.0), fovy_range=(30.0, 50.0), relative_distance=True
    )
    expected = 0.9 / math.tan(math.radians(20))
    assert cameras.resolved_eval_camera == pytest.approx((15.0, expected, 40.0))
    assert replace(cameras, eval_camera=(15.0, 3.0, 0.0)).resolved_eval_camera[1] == 3.0


def test_rings_are_whole_in_any_draw_of_particles():
    e = experiment(SDS(), particles=6, batch_size=2)
    for step in range(5):
        rng = draw_rows(e, step)
        assert rng.group_size == RING
        check_rings(e.camera_sampler.sample(len(rng), rng).pose)


@pytest.mark.parametrize("views, per_particle", [(4, 6), (1, 4), (3, 4)])
def test_rings_that_do_not_divide_the_views_are_refused(views, per_particle):
    with pytest.raises(ValueError, match=r"views must be at least 2|multiple of the"):
        Around(per_particle=per_particle, views=views)


def test_draws_of_groups():
    rng = RowRandom.of_step(3, 7, torch.tensor([0] * 8 + [2] * 8), RING)
    shared = rng.per_group.uniform("t")
    assert torch.equal(shared, shared[::RING].repeat_interleave(RING))
    assert len(shared.unique()) == 4
    assert len(rng.uniform("t").unique()) == 16
    other = rng.per_particle.uniform("t").unique()
    assert not set(shared.tolist()) & set(other.tolist())
    # rows that are chosen twice draw anew, in whole groups
    again = rng.repeat(torch.tensor([4, 5, 6, 7, 4, 5, 6, 7])).per_group.uniform("t")
    assert torch.equal(again[:4], again[:1].expand(4)) and again[0] != again[4]
    # without groups nothing changes
    assert row_rng(5).per_group.uniform("t").equal(row_rng(5).uniform("t"))


@pytest.mark.parametrize("cls", [c for c in choices(Timesteps).values()])
def test_the_views_of_a_group_share_their_time(cls):
    schedule = DiscreteSchedule(tuple(torch.linspace(0.999, 0.1, 50).double().tolist()))
    rng = RowRandom.of_step(0, 1, torch.arange(3).repeat_interleave(8), RING)
    t = cls()(1, 10, 24, schedule, rng)
    assert torch.equal(t, t[::RING].repeat_interleave(RING))
    if issubclass(cls, RandomTimesteps):
        assert len(t.unique()) == 6
        assert len(cls(per_group=False)(1, 10, 24, schedule, rng).unique()) == 24
        assert len(cls(per_row=False)(1, 10, 24, schedule, rng).unique()) == 1


def test_views_of_a_group_have_one_light():
    shading = Shading(ambient_only_fraction=0.0, diffuse_prob=1.0)
    rng = RowRandom.of_step(0, 1, torch.zeros(8, dtype=torch.long), RING)
    camera = TWO_RINGS.sample(8, rng)
    request = RenderRequest(rng.particle, camera, rng, 0.5)
    light = shading.sample_light(camera, request)
    distance = light.position.norm(dim=1)
    assert max_difference(distance, distance[::RING].repeat_interleave(RING)) < 1e-6
    assert abs(float(distance[0] - distance[4])) > 1e-4


# runs


@pytest.mark.parametrize("name", sorted(set(choices(Method)) - OF_IMAGES))
def test_every_call_of_every_method_is_one_of_whole_groups(name, grouped):
    method = choices(Method)[name](**OPTIONS.get(name, {}))
    two_steps(experiment(method), grouped)
    assert grouped.calls_of_groups >= 2


@pytest.mark.parametrize(
    "method",
    [
        VSD(7.5, critic=LoRACritic(camera=True)),
        VSD(7.5, critic=LoRACritic(training=CriticTraining(batch_size=RING, steps=3))),
        VSD(7.5, critic=NullTextCritic(), critic_guidance=1.0),
        RewardSDS(7.5, num_noises=4),
        SDI(7.5),
        LMC(projection=SampledProjection(2)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_parts_that_choose_rows_keep_groups(method, grouped):
    run = two_steps(experiment(method, particles=3, batch_size=2), grouped)
    assert run.step == 2 and grouped.calls_of_groups >= 2


def test_critic_rows_that_split_a_group_are_refused_before_a_model_is_loaded():
    method = VSD(7.5, critic=LoRACritic(training=CriticTraining(batch_size=6)))
    with pytest.raises(ValueError, match="batch_size 6 splits groups of 4 views"):
        experiment(method)
    experiment(VSD(7.5, critic=LoRACritic(training=CriticTraining(batch_size=4))))
    plain = experiment(method, cameras=Orbit(per_particle=4))  # without groups any number is fine
    rng = RowRandom.of_step(0, 0, torch.arange(8) // 4, group_size=4)
    assert plain.camera_sampler.group_size == 1
    with pytest.raises(ValueError, match="splits groups"):
        method.critic.training.check_groups(rng.group_size, len(rng))


def test_prompts_have_no_view_words(grouped):
    run = Run(experiment(SDS(7.5)), grouped)
    assert run.prompts.view_prompts == ("a red mug",)
    inputs = run.advance().inputs
    assert inputs.views is None
    text = grouped.condition(["a red mug"]).data.expand(8, -1, -1)
    assert torch.equal(inputs.conditions.pos.data, text)
    assert torch.equal(inputs.conditions.null.camera, inputs.camera.pose)


def test_a_plain_model_keeps_its_view_words():
    e = Experiment(("red disc",), representation=Ball(), cameras=Around(), steps=1)
    run = Run(e, colored_shapes(8))
    assert len(run.prompts.view_prompts) == 4
    assert run.advance().inputs.conditions.pos.camera is None


def test_an_image_is_a_row_of_its_own(prior):
    run = Run(Experiment(("a red mug",), particles=3, representation=Latents(), steps=1), prior)
    assert run.advance().inputs.conditions.pos.camera is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cameras": Orbit(per_particle=4)}, "cameras are orbit: use --cameras around"),
        ({"cameras": Around(views=2)}, "groups of 2 views: use --cameras around --cameras.views 4"),
        ({"timesteps": UniformTimesteps(per_group=False)}, "leave out --timesteps.no-per-group"),
        ({"cameras": Around(blend_prompts=True)}, "cameras.blend-prompts needs view words"),
        ({"cameras": Around(perp_neg=1.0)}, "cameras.perp-neg needs view words"),
    ],
)
def test_runs_that_do_not_suit_the_groups_are_refused(options, message, prior):
    with pytest.raises(ValueError, match=message):
        Run(experiment(SDS(7.5), **options), prior)


@dataclass(frozen=True)
class Uneven(Orbit):
    """Cameras of one's own whose groups do not divide the views."""

    @property
    def group_size(self):
        return 3


def test_groups_of_ones_own_cameras_must_divide_the_views():
    with pytest.raises(ValueError, match="per_particle 4 is no multiple of the 3 views"):
        Experiment(("red disc",), representation=Ball(), cameras=Uneven(per_particle=4))
    assert NoCamera().group_size == 1


def test_resources_are_measured_on_whole_groups(grouped):
    run = Run(experiment(SDS(7.5)), grouped)
    counter = trace_step(run)
    assert grouped.calls_of_groups == 2
    one = Run(experiment(SDS(7.5), cameras=Around()), grouped)
    assert counter.flops["method"] == pytest.approx(2 * trace_step(one).flops["method"])
