"""The image of a run as a view that the model is given clean."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from grouped_prior import check_rings
from PIL import Image
from tiny_mvdream import write_mvdream
from tiny_pipeline import max_difference, normal

from limbeck.cli.main import main
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import KnownViewPrior
from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.samplers import Around
from limbeck.methods.ism import ISM
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.priors.loading import load
from limbeck.representations.nerf import NeRF
from limbeck.runs.sample_recorder import sample_to_folder
from limbeck.runs.view_samples import view_conditions
from limbeck.system.image_files import read_image
from limbeck.training.experiment import Experiment
from limbeck.training.reference import ImageReference
from limbeck.training.row_draws import draw_rows
from limbeck.training.trainer import Run

RED = (200, 30, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that was trained on groups of which a view is given."""
    folder, _ = write_mvdream("native", tmp_path_factory.mktemp("known"))
    (folder / "training.json").write_text(json.dumps({"reference_views": 0.3}))
    return folder


@pytest.fixture(scope="module")
def prior(folder):
    return load(Model(str(folder), resolution=16), "cpu", "float32")


@pytest.fixture(scope="module")
def untrained(folder, tmp_path_factory):
    """The same weights, of a model that was not trained so."""
    plain = shutil.copytree(folder, tmp_path_factory.mktemp("plain") / "model")
    (plain / "training.json").unlink()
    return load(Model(str(plain), resolution=16), "cpu", "float32")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """A red square, cut out."""
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[8:24, 8:24] = (*RED, 255)
    path = tmp_path_factory.mktemp("image") / "square.png"
    Image.fromarray(pixels).save(path)
    return path


def experiment(image, group_prob=1.0, **options):
    defaults = {
        "method": SDS(7.5),
        "representation": NeRF(samples=12, resolution=16, occupancy_resolution=8),
        "cameras": Around(per_particle=8),
        "reference": ImageReference(image, camera=(30.0, 10.0, 3.0, 35.0), group_prob=group_prob),
        "steps": 2,
    }
    return Experiment(("a red mug",), **defaults | options)


def two_groups(prior, image, known=(1, 6)):
    xt, t = normal(8, 4, 8, 8, dtype=torch.float32), torch.tensor([0.4, 0.7]).repeat_interleave(4)
    pose = turntable_cameras(4, 15.0, 3.0, 40.0).pose.repeat(2, 1, 1)
    mask = torch.zeros(8, dtype=torch.bool)
    mask[list(known)] = True
    text = prior.condition(["a red mug"] * 8)
    return xt, t, replace(text, camera=pose, image=image, known=mask)


# the prior


def test_the_folder_says_whether_a_view_may_be_given(prior, untrained, folder, tmp_path):
    assert isinstance(prior, KnownViewPrior)
    assert prior.takes_known_views and not untrained.takes_known_views
    write_mvdream("native", tmp_path)
    (tmp_path / "training.json").write_text(json.dumps({"reference_views": 0}))
    (found,) = tmp_path.rglob("model_index.json")
    assert not load(Model(str(found.parent), resolution=16), "cpu").takes_known_views


def test_the_network_sees_a_known_view_clean_at_tick_0(prior):
    """Written out: a plain call of the U-Net in which these rows and their ticks are replaced."""
    latents = normal(8, 4, 8, 8, seed=1, dtype=torch.float32)
    xt, t, condition = two_groups(prior, latents)
    known = condition.known
    found = prior(xt, t, condition)[0]
    other = Condition(condition.data + 1, camera=condition.camera)  # without an image
    ticks = prior.schedule.timestep_index(t)
    seen = []
    hook = prior.unet.register_forward_pre_hook(lambda net, args: seen.append(args))
    prior(xt, t, condition, other)
    hook.remove()
    sample, tick = seen[0][:2]
    assert torch.equal(sample[:8][known], latents[known])
    assert torch.equal(sample[:8][~known], xt[~known])
    assert torch.equal(tick[:8], torch.where(known, 0, ticks))
    assert torch.equal(sample[8:], xt) and torch.equal(tick[8:], ticks)
    # the rest of the group follows the view, and no longer what its row held
    other = prior(xt, t, replace(condition, image=latents + 1))[0]
    assert (other.eps - found.eps)[~known].flatten(1).abs().amax(1).min() > 1e-3
    changed = torch.where(known[:, None, None, None], xt + 1, xt)
    assert torch.equal(prior(changed, t, condition)[0].eps[~known], found.eps[~known])


def test_a_known_view_is_predicted_to_be_itself(prior):
    latents = normal(8, 4, 8, 8, seed=1, dtype=torch.float32)
    xt, t, condition = two_groups(prior, latents)
    known = condition.known
    for prediction in prior(xt, t, condition, replace(condition, data=condition.data + 1)):
        assert torch.equal(prediction.x0[known], latents[known])
        alpha, sigma = (
            f(t)[:, None, None, None] for f in (prior.schedule.alpha, prior.schedule.sigma)
        )
        again = alpha * prediction.x0 + sigma * prediction.eps
        assert max_difference(again, xt) < 1e-4


# runs


def test_a_group_with_the_image_is_its_camera_turned_around_the_object(prior, image):
    run = Run(experiment(image), prior)
    inputs = run.advance().inputs
    check_rings(inputs.camera.pose)
    first = inputs.camera[torch.tensor([0, 4])]
    assert max_difference(first.pose, run.reference.camera.pose.expand(2, -1, -1)) < 1e-6
    assert max_difference(inputs.camera.fov, torch.full((8,), math.radians(35.0))) < 1e-6
    for condition in (inputs.conditions.pos, inputs.conditions.null):
        assert condition.known.tolist() == [True, False, False, False] * 2


@pytest.mark.parametrize("resolution", [16, 8])
def test_the_image_stands_on_the_background_of_its_row(prior, image, resolution):
    """Also where the renders are upsampled."""
    field = NeRF(samples=12, resolution=resolution, occupancy_resolution=8)
    run = Run(experiment(image, representation=field), prior)
    rendered = []
    render = run.render
    run.render = lambda request: rendered.append(render(request)) or rendered[-1]
    inputs = run.advance().inputs
    images = run.reference.images.at(*rendered[0].image.shape[2:])
    target = images.color + (1 - images.mask) * rendered[0].background[[0, 4]]
    expected = prior.encode(target)
    assert max_difference(inputs.conditions.pos.image[[0, 4]], expected) < 1e-5


@pytest.mark.parametrize("method", [SDS(7.5), ISM(), VSD(7.5, critic=LoRACritic(camera=True))])
def test_the_row_of_the_image_has_no_gradient(prior, image, method):
    run = Run(experiment(image, method=method), prior)
    for _ in range(2):
        step = run.advance()
        known = step.inputs.conditions.pos.known
        size = step.gradient.flatten(1).abs().amax(1)
        assert (size[known] == 0).all() and (size[~known] > 0).all()


def test_the_share_of_the_groups(prior, image):
    e = experiment(image, 0.3, cameras=Around(per_particle=400))
    run = Run(e, prior)
    rng = draw_rows(e, 3)
    plain = e.camera_sampler.sample(400, rng)
    camera, known = run.known_view.place(plain, rng)
    chosen = known.view(-1, 4)
    assert not chosen[:, 1:].any()
    assert 15 <= chosen.sum() <= 45  # of 100 groups; a binomial is outside in .1 % of the cases
    rows = chosen[:, 0].repeat_interleave(4)
    assert torch.equal(camera.pose[~rows], plain.pose[~rows])
    check_rings(camera.pose)


def test_without_a_share_the_model_sees_no_image(prior, untrained, image):
    """Bit for bit the run of a model that cannot be given views."""
    a = Run(experiment(image, 0.0), prior)
    b = Run(experiment(image, 0.5), untrained)
    for _ in range(2):
        step, other = a.advance(), b.advance()
        assert step.inputs.conditions.pos.known is None
        assert torch.equal(step.gradient, other.gradient)
    assert all(map(torch.equal, a.representation.parameters(), b.representation.parameters()))


def test_a_share_of_other_models_is_refused(untrained, image):
    with pytest.raises(ValueError, match=r"reference\.group_prob 0\.3 has no effect"):
        Run(experiment(image, 0.3), untrained)
    e = experiment(image, 0.3, cameras=Around())
    with pytest.raises(ValueError, match=r"reference\.group_prob 0\.3 has no effect"):
        Run(e, colored_shapes(16))


def test_a_share_without_an_image_is_refused():
    with pytest.raises(ValueError, match="group_prob has no effect without an image"):
        ImageReference(group_prob=0.3).check_effect()


# samples


def test_a_sample_has_the_image_as_its_first_view(prior, image, tmp_path):
    sampling = Sampling(("a red mug", "a cup"), views=4, num_images=4, steps=2, image=image)
    conditions = view_conditions(sampling, prior)
    assert conditions.pos.known.tolist() == conditions.null.known.tolist()
    assert conditions.pos.known.tolist() == [True, False, False, False] * 2
    latents = prior.encode(read_image(image, prior.image_size)[None])
    sample_to_folder(sampling, prior, tmp_path / "out")
    decoded = (prior.decode(latents)[0].clamp(0, 1) * 255).round()
    for prompt in range(2):
        shown = Image.open(sorted((tmp_path / "out" / "final").glob("*.png"))[4 * prompt])
        found = torch.from_numpy(np.asarray(shown).copy()).permute(2, 0, 1)
        assert max_difference(found.float(), decoded) <= 1


def test_samples_that_cannot_have_an_image_are_refused(untrained, image, tmp_path, capsys):
    with pytest.raises(ValueError, match="give their number with --views"):
        Sampling(("a red mug",), image=image)
    sampling = Sampling(("a red mug",), views=4, num_images=4, image=image)
    with pytest.raises(ValueError, match="trained to be given one of them"):
        sample_to_folder(sampling, untrained, tmp_path / "out")
    command = ["sample", "a mug", "--views", "4", "--image", str(tmp_path / "none.png")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "no image file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
