"""Zero123 against its formulas, written out here: layouts, poses, network, SDS, refusals."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from refusals import refused
from tiny_families import write_eps
from tiny_mvdream import change_json
from tiny_pipeline import max_difference, normal
from tiny_zero123 import LAYOUTS, make_image_encoder, make_projection, make_unet, write_zero123

from limbeck.config.discovery import choices
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import MultiViewPrior, NovelViewPrior
from limbeck.distillation.critics.frozen import FrozenCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.hub import pipeline_parts
from limbeck.priors.loading import load
from limbeck.priors.zero123 import Zero123, relative_pose
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.reference import ImageReference
from limbeck.training.trainer import Run

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {layout: write_zero123(tmp_path_factory.mktemp("m"), layout) for layout in LAYOUTS}


def load_tiny(folder: Path, pose_input: str = "distance"):
    return load(Model(str(folder), pose_input=pose_input), "cpu", "float32")


@pytest.fixture(scope="module")
def prior(folders):
    return load_tiny(folders["Zero123Pipeline"])


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "object.png"
    y, x = np.mgrid[:48, :48] - 23.5
    pixels = np.zeros((48, 48, 4), np.uint8)
    pixels[np.hypot(x, y) < 14] = (200, 60, 20, 255)
    Image.fromarray(pixels).save(path)
    return path


def ring(*poses, distance=3.0):
    azimuth, elevation = torch.tensor(poses).deg2rad().unbind(1)
    return orbit_cameras(azimuth, elevation, distance, 40.0)


# the pose


def original_pose(target, reference):
    """The four numbers from camera positions in a world with z up: polar angle, azimuth, radius."""

    def polar(position):
        x, y, z = position.tolist()
        return math.atan2(math.hypot(x, y), z), math.atan2(y, x), math.hypot(x, y, z)

    a, b = polar(target), polar(reference)
    turn = (a[1] - b[1]) % (2 * math.pi)
    return torch.tensor([a[0] - b[0], math.sin(turn), math.cos(turn), a[2] - b[2]])


def z_up(azimuth, elevation, distance):
    """Where a camera stands in that world, with the front at +x and +y to the right of it."""
    a, e = math.radians(azimuth), math.radians(elevation)
    x, y = math.cos(e) * math.cos(a), math.cos(e) * math.sin(a)
    return distance * torch.tensor([x, y, math.sin(e)], dtype=torch.float64)


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 90.0, 180.0, 250.0, 359.0])
@pytest.mark.parametrize("elevation", [-10.0, 0.0, 45.0])
def test_poses_are_those_of_the_original_world(azimuth, elevation):
    found = relative_pose(
        ring((azimuth, elevation), distance=3.1).eye, ring((20.0, 5.0), distance=3.8).eye, False
    )
    expected = original_pose(z_up(azimuth, elevation, 3.1), z_up(20.0, 5.0, 3.8))
    assert max_difference(found[0], expected.float()) < 1e-5


def test_a_camera_to_the_right_of_that_of_the_image_turns_by_a_positive_angle():
    """A known pair: from the front, a step to the camera's own right (+x) is +90 degrees."""
    front, right = ring((0.0, 0.0)), ring((90.0, 0.0))
    camera_right = front.pose[0, :3, 0]
    assert max_difference(right.eye[0] / 3, camera_right) < 1e-6
    found = relative_pose(right.eye, front.eye, False)[0]
    assert max_difference(found, torch.tensor([0.0, 1.0, 0.0, 0.0])) < 1e-6
    above = relative_pose(ring((0.0, 60.0)).eye, front.eye, False)[0]
    assert max_difference(above, torch.tensor([-math.pi / 3, 0.0, 1.0, 0.0])) < 1e-6


def test_stable_zero123_is_told_the_polar_angle_of_the_image():
    found = relative_pose(ring((90.0, 30.0)).eye, ring((0.0, 5.0), distance=4.0).eye, True)[0]
    expected = [math.radians(5 - 30), 1.0, 0.0, math.radians(85)]
    assert max_difference(found, torch.tensor(expected)) < 1e-6


# the network, in plain diffusers


def direct_inputs(folder, image, reference, cameras, polar=False):
    """Latents of the image and the token of each camera, from the published parts."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    pixels = torch.nn.functional.interpolate(image, (32, 32), mode="bicubic", align_corners=True)
    with torch.no_grad():
        latents = vae.encode(2 * image - 1).latent_dist.mode()  # not scaled
        features = make_image_encoder()((pixels - MEAN) / STD).image_embeds
    poses = []
    for camera in range(len(cameras)):
        a, e, d = (float(v[camera]) for v in (cameras.azimuth, cameras.elevation, cameras.distance))
        target = z_up(math.degrees(a), math.degrees(e), d)
        pose = original_pose(target, z_up(*reference)).float()
        if polar:
            pose[3] = math.radians(90 - reference[1])
        poses.append(pose)
    pair = torch.cat([features.expand(len(poses), -1), torch.stack(poses)], 1)
    return latents, make_projection()(pair)[:, None]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("polar", [False, True])
def test_predictions_are_those_of_the_direct_computation(layout, polar, folders):
    folder = folders[layout]
    model = load_tiny(folder, "polar-angle" if polar else "distance")
    assert isinstance(model, Zero123)
    assert isinstance(model, NovelViewPrior) and isinstance(model, MultiViewPrior)
    image, reference = torch.rand(1, 3, 16, 16), (15.0, 5.0, 3.8)
    cameras = ring((40.0, -5.0), (200.0, 30.0), (15.0, 5.0))
    at_image = ring(reference[:2], distance=reference[2])
    latents, tokens = direct_inputs(folder, image, reference, cameras, polar)
    xt, t = normal(3, 4, 8, 8, dtype=torch.float32), torch.tensor([0.3, 0.6, 0.9])
    ticks = model.schedule.timestep_index(t)
    unet = make_unet()
    with torch.no_grad():
        beside = torch.cat([xt, latents.expand(3, -1, -1, -1)], 1)
        expected = unet(beside, ticks, tokens).sample
        none = unet(torch.cat([xt, 0 * xt], 1), ticks, 0 * tokens).sample
        pos = model.condition_on_view(image, at_image.pose)[torch.zeros(3).long()]
        null = model.condition([""] * 3)
        conditions = Conditions(pos, null).with_camera(cameras.pose)
        found = model(xt, t, conditions.null, conditions.pos)
        guided = guided_prediction(model, xt, t, conditions, 3.0)
    assert (expected - none).abs().max() > 0.05
    assert max_difference(found[1].eps, expected) < 1e-5
    assert max_difference(found[0].eps, none) < 1e-5
    assert max_difference(guided.eps, none + 3 * (expected - none)) < 1e-5
    # the cameras matter, and the image does
    with torch.no_grad():
        rolled = replace(conditions.pos, camera=cameras.pose.roll(1, 0))
        other = model(xt, t, rolled, replace(conditions.pos, image=None))
    assert all((part.eps - expected).abs().max() > 1e-3 for part in other)


def test_the_camera_of_the_image_is_not_rounded_to_16_bits(folders, monkeypatch):
    """The pose of the view of the image itself is none, exactly."""
    folder = folders["Zero123Pipeline"]
    model = load(Model(str(folder), pose_input="distance"), "cpu", "bfloat16")
    camera, poses = ring((15.0, 5.0), distance=3.8).pose, []

    def record_pose(*args):
        poses.append(relative_pose(*args))
        return poses[-1]

    monkeypatch.setattr("limbeck.priors.zero123.relative_pose", record_pose)
    with torch.no_grad():
        pos = model.condition_on_view(torch.rand(1, 3, 16, 16), camera)
        conditions = Conditions(pos, model.condition([""])).with_camera(camera)
        found = model(normal(1, 4, 8, 8, dtype=torch.float32), torch.tensor([0.5]), conditions.pos)
    assert torch.equal(
        poses[0], relative_pose(camera[:, None, :3, 3], camera[:, None, :3, 3], False)
    )
    assert found[0].eps.dtype == torch.float32 and found[0].eps.isfinite().all()


def test_both_layouts_hold_one_model(folders):
    weights = [load_tiny(folder).projection.weight for folder in folders.values()]
    assert torch.equal(*weights)


def test_downloads_have_the_image_encoder_and_no_text_encoder(folders):
    for layout, folder in folders.items():
        parts = set(pipeline_parts(folder / "model_index.json"))
        assert parts >= {"unet", "vae", "scheduler", "image_encoder", LAYOUTS[layout][0]}
        assert not parts & {"text_encoder", "tokenizer"}


# runs


def experiment(image_file, **options):
    defaults = {
        "prompts": ("",),
        "method": SDS(3.0),
        "representation": NeRF(samples=8, resolution=8),
        "cameras": Orbit(per_particle=2, elevation_range=(-10.0, 80.0)),
        "weight": UniformWeight(),
        "reference": ImageReference(image_file, camera=(0.0, 5.0, 3.8, 20.0)),
        "steps": 2,
    }
    return Experiment(**defaults | options)


def test_a_step_of_sds_is_guided_by_the_image_from_each_camera(prior, folders, image_file):
    run = Run(experiment(image_file), prior)
    step = run.advance()
    inputs, image = step.inputs, run.reference.images.at(16, 16).on_white[None]
    latents, tokens = direct_inputs(
        folders["Zero123Pipeline"], image, (0.0, 5.0, 3.8), inputs.camera
    )
    unet, ticks = make_unet(), prior.schedule.timestep_index(inputs.t)
    with torch.no_grad():
        beside = torch.cat([inputs.xt, latents.expand(2, -1, -1, -1)], 1)
        pos = unet(beside, ticks, tokens).sample
        null = unet(torch.cat([inputs.xt, 0 * inputs.xt], 1), ticks, 0 * tokens).sample
    expected = null + 3 * (pos - null) - inputs.eps
    assert max_difference(step.gradient, expected) < 1e-4
    assert {"reference_color", "reference_mask"} <= set(step.metrics)


#: methods without a meaning here: they edit, add texts, judge texts, or need view words
REFUSED = {
    "bridge": "adds texts to the prompts",
    "esd": "needs a critic that gets the view",
    **dict.fromkeys(("reward-bridge", "reward-sds", "reward-vsd"), "cannot judge prompt ''"),
    **{n: "edits images" for n, cls in choices(EditMethod).items() if cls.needs_source},
    "irfds": "optimizes the noise of an image",
}


METHODS = [pytest.param(n, marks=pytest.mark.slow) if n == "lmc" else n for n in choices(Method)]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_steps_or_is_refused(name, prior, image_file):
    options = {"method": choices(Method)[name](), "cameras": Orbit(per_particle=1)}
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            Run(experiment(image_file, **options), prior)
        return
    run = Run(experiment(image_file, **options), prior)
    for _ in range(2):
        step = run.advance()
    assert step.gradient.isfinite().all() and step.gradient.abs().max() > 0


CRITICS = [
    VSD(critic=LoRACritic(rank=2)),
    VSD(critic=LoRACritic(rank=2, camera=True)),
    VSD(critic=SmallUNetCritic(width=32)),
    VSD(critic=NullTextCritic()),
    VSD(critic=NullTextCritic(init_from="prompt")),
]


@pytest.mark.parametrize("method", CRITICS, ids=range(len(CRITICS)))
def test_critics_take_steps_that_are_finite(method: Method, prior, image_file):
    run = Run(experiment(image_file, method=method), prior)
    before = {k: v.detach().clone() for k, v in run.representation.state_dict().items()}
    for _ in range(2):
        step = run.advance()
    assert step.gradient.isfinite().all() and step.gradient.abs().max() > 0
    assert any(not torch.equal(v, before[k]) for k, v in run.representation.state_dict().items())


def test_a_run_resumes_bit_identically(prior, image_file):
    e = experiment(image_file, steps=3)
    run = Run(e, prior)
    for _ in range(2):
        run.advance()
    saved = {name: tensor.detach().clone() for name, tensor in run.tensors().items()}
    run.advance()
    resumed = Run(e, prior)
    resumed.load(saved, 2)
    resumed.advance()
    expected = run.tensors()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.tensors().items())


# refusals


def test_what_the_model_needs_is_said(prior, image_file):
    with pytest.raises(ValueError, match="give one with --image FILE"):
        Run(experiment(image_file, prompts=("a mug",), reference=ImageReference()), prior)
    e = Experiment(("a mug",), representation=Latents())
    with pytest.raises(ValueError, match="makes new views of the object of an image"):
        Run(e, prior)
    with pytest.raises(ValueError, match="negative_prompt 'ugly' has no effect"):
        Run(experiment(image_file, negative_prompt="ugly"), prior)


def test_a_frozen_critic_of_texts_is_refused(prior, image_file):
    with pytest.raises(ValueError, match="reads no text"):
        Run(experiment(image_file, method=VSD(critic=FrozenCritic("world"))), prior)


def test_the_pose_must_be_told(folders, tmp_path):
    folder = folders["Zero123Pipeline"]
    with pytest.raises(ValueError, match=r"give --model\.pose-input distance for Zero123"):
        load(Model(str(folder)), "cpu", "float32")
    with pytest.raises(ValueError, match="is for models of the family of Zero123"):
        load(Model(str(write_eps(tmp_path)), pose_input="distance"), "cpu", "float32")


def test_hub_ids_know_their_pose():
    from limbeck.priors.zero123_files import pose_input

    assert pose_input("kxic/zero123-xl@main", "auto") == "distance"
    assert pose_input("ashawkey/zero123-xl-diffusers", "auto") == "distance"
    assert pose_input("kxic/stable-zero123", "auto") == "polar-angle"
    assert pose_input("kxic/stable-zero123", "distance") == "distance"


def test_damaged_files_are_named(folders, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(folders["Zero123Pipeline"], folder)
    shutil.rmtree(folder / "clip_camera_projection")
    with pytest.raises(ValueError, match="lacks the weights of clip_camera_projection"):
        load_tiny(folder)
    shutil.rmtree(folder / "image_encoder")
    with pytest.raises(ValueError, match="lacks image_encoder"):
        load_tiny(folder)
    shutil.rmtree(folder)
    shutil.copytree(folders["Zero123Pipeline"], folder)
    change_json(folder / "unet" / "config.json", in_channels=4)
    with pytest.raises(ValueError, match="in_channels 4; Zero123 needs 8"):
        load_tiny(folder)


def test_samples_of_it_are_refused(folders, capsys, tmp_path):
    line = ["--model", str(folders["Zero123Pipeline"]), "--model.pose-input", "distance"]
    message = refused(capsys, "sample", "a mug", *line, "--out", str(tmp_path / "s"))
    assert "makes new views of the object of an image" in message
    assert not (tmp_path / "s").exists()
