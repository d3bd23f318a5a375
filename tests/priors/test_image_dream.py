"""ImageDream against its formulas, written out here: resampler, attention, fifth view, runs."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from PIL import Image
from safetensors.torch import load_file
from tiny_image_dream import DEPTH, HEADS, write_image_dream
from tiny_mvdream import make_unet
from tiny_pipeline import max_difference, normal
from tiny_zero123 import make_image_encoder
from torch.nn.functional import gelu, layer_norm

from limbeck.diffusion.camera_input import camera_labels
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import ImagePromptPrior
from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.rewards.image_statistics import SaturationReward
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.samplers import Around
from limbeck.methods.bridge import Bridge
from limbeck.methods.ism import ISM
from limbeck.methods.reward_bridge import RewardBridge
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.hub import detect_repo_id, pipeline_parts
from limbeck.priors.image_dream import ImageDream
from limbeck.priors.loading import load
from limbeck.priors.trainable_network import NetworkCopy
from limbeck.representations.nerf import NeRF
from limbeck.runs.sample_recorder import sample_to_folder
from limbeck.training.experiment import Experiment
from limbeck.training.reference import ImageReference
from limbeck.training.trainer import Run

TEXTS = ["a red mug", "a blue chair", "two striped cats", "low quality"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    layouts = ("original-names", "pickle")
    return {
        layout: write_image_dream(layout, tmp_path_factory.mktemp(layout)) for layout in layouts
    }


def load_layout(written, layout):
    model, config = written[layout]
    return load(Model(str(model), config=str(config or ""), resolution=16), "cpu", "float32")


@pytest.fixture(scope="module")
def prior(written):
    return load_layout(written, "original-names")


@pytest.fixture(scope="module")
def weights(written):
    """Weights with the names of the original code."""
    return load_file(written["original-names"][0] / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """A red square, cut out."""
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[8:24, 8:24] = (200, 30, 20, 255)
    path = tmp_path_factory.mktemp("image") / "square.png"
    Image.fromarray(pixels).save(path)
    return path


# the network


def attend(q, k, v, heads):
    """Attention of every head over all keys."""
    out = []
    for i in range(heads):
        part = slice(i * q.shape[1] // heads, (i + 1) * q.shape[1] // heads)
        scores = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(q.shape[1] // heads), 1)
        out.append(scores @ v[:, part])
    return torch.cat(out, 1)


def resampled(weights, features):
    """The tokens of the features of one image: a perceiver."""
    w = {k.removeprefix("image_embed."): v for k, v in weights.items() if k.startswith("image_emb")}

    def norm(x, name):
        return layer_norm(x, x.shape[1:], w[f"{name}.weight"], w[f"{name}.bias"])

    x = features @ w["proj_in.weight"].T + w["proj_in.bias"]
    tokens = w["latents"][0]
    for i in range(DEPTH):
        at, ff = f"layers.{i}.0", f"layers.{i}.1"
        own, other = norm(tokens, f"{at}.norm2"), norm(x, f"{at}.norm1")
        k, v = (torch.cat([other, own]) @ w[f"{at}.to_kv.weight"].T).chunk(2, 1)
        found = attend(own @ w[f"{at}.to_q.weight"].T, k, v, HEADS)
        tokens = tokens + found @ w[f"{at}.to_out.weight"].T
        hidden = gelu(norm(tokens, f"{ff}.0") @ w[f"{ff}.1.weight"].T)
        tokens = tokens + hidden @ w[f"{ff}.3.weight"].T
    return norm(tokens @ w["proj_out.weight"].T + w["proj_out.bias"], "norm_out")


def reference_eps(weights, xt, ticks, text, labels, features, latents):
    """The answer for one group, from plain blocks of Stable Diffusion.

    With ``latents``, they are a fifth row without camera, whose answer is dropped.
    """
    if latents is not None:
        xt, labels = torch.cat([xt, latents]), torch.cat([labels, torch.zeros(1, 16)])
        ticks, text, features = (torch.cat([v, v[:1]]) for v in (ticks, text, features))
    tokens = [resampled(weights, f) for f in features]
    full = make_unet()
    config = dict(full.config) | {
        "class_embed_type": None,
        "projection_class_embeddings_input_dim": None,
    }
    unet = UNet2DConditionModel.from_config(config).eval()
    kept = {k: v for k, v in full.state_dict().items() if not k.startswith("class_embedding")}
    unet.load_state_dict(kept)
    camera = full.class_embedding(labels)
    unet.time_embedding.register_forward_hook(lambda layer, inputs, out: out + camera)
    # both enumerate the blocks of the network from its input to its output
    by_block = {
        key.split(".transformer_blocks")[0]: (weights[key], weights[key.replace("to_k_", "to_v_")])
        for key in weights
        if key.endswith("to_k_ip.weight")
    }
    order = sorted(by_block, key=lambda name: (["inp", "mid", "out"].index(name[:3]), name))
    modules = [unet.down_blocks, [unet.mid_block], unet.up_blocks]
    blocks = [
        block
        for part in modules
        for child in part
        for block in child.modules()
        if isinstance(block, BasicTransformerBlock)
    ]
    assert len(blocks) == len(order)
    for block, name in zip(blocks, order, strict=True):
        block.attn1.forward = over_all_rows(block.attn1)
        block.attn2.forward = over_both(block.attn2, tokens, *by_block[name])
    with torch.no_grad():
        return unet(xt, ticks, text).sample[:4]


def over_all_rows(layer):
    def forward(x, encoder_hidden_states=None, attention_mask=None):
        rows = x.flatten(0, 1)
        parts = [f(rows) for f in (layer.to_q, layer.to_k, layer.to_v)]
        return layer.to_out[0](attend(*parts, layer.heads)).view_as(x)

    return forward


def over_both(layer, tokens, key, value):
    """Attention to the text plus attention to the tokens of the image."""

    def forward(x, encoder_hidden_states=None, attention_mask=None):
        rows = []
        for row, text, shown in zip(x, encoder_hidden_states, tokens, strict=True):
            q = layer.to_q(row)
            found = attend(q, layer.to_k(text), layer.to_v(text), layer.heads)
            found = found + attend(q, shown @ key.T, shown @ value.T, layer.heads)
            rows.append(layer.to_out[0](found))
        return torch.stack(rows)

    return forward


def one_group(prior):
    """Inputs of one group and its image."""
    xt, t = normal(4, 4, 8, 8, dtype=torch.float32), torch.full((4,), 0.4)
    shown = prior.encode_image_prompt(torch.rand(1, 3, 16, 16, generator=torch.manual_seed(1)))
    condition = prior.condition(TEXTS)
    pose = turntable_cameras(4, 15.0, 3.0, 40.0).pose
    return xt, t, condition.__class__(condition.data, camera=pose, image_prompt=shown.expand(4, -1))


@pytest.mark.parametrize("layout", ["original-names", "pickle"])
@pytest.mark.parametrize("image_view", [True, False])
def test_every_layout_answers_by_the_formulas(layout, image_view, written, weights):
    prior = load_layout(written, layout)
    assert isinstance(prior, ImageDream) and isinstance(prior, ImagePromptPrior)
    assert prior.has_image_view
    prior.has_image_view = image_view
    xt, t, condition = one_group(prior)
    found = prior(xt, t, condition)[0].eps
    features, latents = condition.image_prompt[:, : 17 * 32], condition.image_prompt[:1, 17 * 32 :]
    expected = reference_eps(
        weights,
        xt,
        prior.schedule.timestep_index(t),
        condition.data,
        camera_labels(condition.camera),
        features.unflatten(1, (17, 32)),
        latents.view(1, 4, 8, 8) if image_view else None,
    )
    assert max_difference(found, expected) < 1e-4  # in float32, after weights that are large
    assert torch.equal(NetworkCopy(prior)(xt, t, condition)[0].eps, found)
    nothing = prior(xt, t, condition.__class__(condition.data, camera=condition.camera))[0].eps
    assert max_difference(found, nothing) > 1e-2


def test_an_image_is_its_features_before_the_last_layer_and_its_latents(prior):
    picture = torch.rand(2, 3, 16, 16, generator=torch.manual_seed(1))
    found = prior.encode_image_prompt(picture)
    resize = torch.nn.functional.interpolate
    pixels = resize(picture, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        outputs = make_image_encoder()((pixels - mean) / std, output_hidden_states=True)
    features, latents = found.split([17 * 32, 4 * 8 * 8], 1)
    assert max_difference(features, outputs.hidden_states[-2].flatten(1)) < 1e-5
    assert max_difference(latents, prior.encode(picture).flatten(1)) < 1e-6
    assert not prior.condition(["a red mug"]).image_prompt.any()


def test_the_local_pickle_has_no_fifth_view(written, tmp_path):
    model, config = written["pickle"]
    names = {"sd-v2.1-base-4view-ipmv-local.pt": False, "other-ipmv.pt": True}
    for name, expected in names.items():
        shutil.copy(model, tmp_path / name)
        options = Model(str(tmp_path / name), config=str(config), resolution=16)
        assert load(options, "cpu", "float32").has_image_view == expected
    shutil.copy(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"name it as it was published, ...-ipmv\.pt"):
        load(Model(str(tmp_path / "model.pt"), config=str(config)), "cpu")
    assert detect_repo_id(model) == "ashawkey/imagedream-ipmv-diffusers"


def test_its_image_encoder_is_downloaded(written):
    assert "image_encoder" in pipeline_parts(written["original-names"][0] / "model_index.json")


def test_a_folder_without_image_encoder_is_refused(written, tmp_path):
    folder = shutil.copytree(written["original-names"][0], tmp_path / "model")
    shutil.rmtree(folder / "image_encoder")
    with pytest.raises(ValueError, match=r"lacks image_encoder|needs the image encoder"):
        load(str(folder), "cpu")
    model, config = written["pickle"]
    plain = shutil.copytree(config, tmp_path / "config")
    shutil.rmtree(plain / "image_encoder")
    with pytest.raises(ValueError, match="needs the image encoder"):
        load(Model(str(model), config=str(plain)), "cpu")


# runs


def experiment(image, **options):
    defaults = {
        "method": SDS(5.0, rescale=0.2),
        "representation": NeRF(samples=12, resolution=16, occupancy_resolution=8),
        "cameras": Around(per_particle=8),
        "reference": ImageReference(image),
        "steps": 2,
    }
    return Experiment(("a red mug",), **defaults | options)


@pytest.mark.parametrize("method", [SDS(5.0), ISM(), VSD(7.5, critic=LoRACritic(camera=True))])
def test_methods_run(prior, image, method, tmp_path):
    """And what they descend along depends on the prompt and on the image."""
    e = experiment(image, method=method)
    run = Run(e, prior)
    step = run.advance()
    assert math.isfinite(float(run.advance().metrics["grad_norm"]))
    size = float(step.gradient.norm())
    assert math.isfinite(size) and size > 0
    other = tmp_path / "other.png"
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[4:28, 12:20] = (20, 60, 200, 255)
    Image.fromarray(pixels).save(other)
    others = (replace(e, prompts=("a blue chair",)), replace(e, reference=ImageReference(other)))
    for changed in others:
        found = Run(changed, prior).advance()
        assert max_difference(found.inputs.xt, step.inputs.xt) == 0
        assert float((found.gradient - step.gradient).norm()) > 1e-3 * size


@pytest.mark.parametrize("kind", [Bridge, RewardBridge])
def test_stage_two_of_bridge_shows_the_image_to_source_and_target(prior, image, kind, monkeypatch):
    own = {"reward_steps": 2, "reward_model": SaturationReward()} if kind is RewardBridge else {}
    run = Run(experiment(image, method=kind(4.0, 0.0, ", low quality", **own)), prior)
    seen, predict = [], prior._forward

    def forward(xt, t, condition):
        seen.append(condition.image_prompt)
        return predict(xt, t, condition)

    monkeypatch.setattr(prior, "_forward", forward)
    run.advance()
    assert seen and all(bool(shown.abs().amax(1).gt(0).all()) for shown in seen)


@pytest.mark.parametrize("resolution", [16, 8])
def test_the_image_stands_on_the_mean_background_beside_the_prompt_only(prior, image, resolution):
    """Also where the renders are upsampled."""
    field = NeRF(samples=12, resolution=resolution, occupancy_resolution=8)
    e = experiment(image, negative_prompt="low quality", representation=field)
    run = Run(e, prior)
    rendered, render = [], run.render
    run.render = lambda request: rendered.append(render(request)) or rendered[-1]
    conditions = run.advance().inputs.conditions
    images = run.reference.images.at(16, 16)
    for group in (slice(0, 4), slice(4, 8)):
        background = rendered[0].background[group].mean((0, 2, 3))[:, None, None]
        expected = prior.encode_image_prompt((images.color + (1 - images.mask) * background)[None])
        found = conditions.pos.image_prompt[group]
        assert max_difference(found, expected.detach().expand(4, -1)) < 1e-5
    assert not conditions.null.image_prompt.any()


def test_runs_without_an_image_of_the_front_are_refused(prior, image):
    with pytest.raises(ValueError, match="give one with --image FILE"):
        Run(experiment(None), prior)
    turned = ImageReference(image, camera=(90.0, 5.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="leave the azimuth at 0"):
        Run(experiment(image, reference=turned), prior)


def test_samples_of_an_image(prior, image, tmp_path):
    sampling = Sampling(("a red mug",), views=4, num_images=4, steps=2)
    with pytest.raises(ValueError, match="give one with --image FILE"):
        sample_to_folder(sampling, prior, tmp_path / "none")
    sample_to_folder(
        Sampling(("a red mug",), views=4, num_images=4, steps=2, image=image), prior, tmp_path / "a"
    )
    assert json.loads((tmp_path / "a" / "profile.json").read_text())["evaluations"] == 16
