"""IP-Adapter: the numbers of diffusers' pipelines, which rows see the image, what is refused."""

import re
import shutil
from dataclasses import replace

import diffusers
import pytest
import torch
from family_pipelines import (
    OTHER,
    PROMPT,
    STEPS,
    TIMES,
    load_family,
    predict_eps,
    same_predictions,
    train_lora_critic,
)
from PIL import Image
from refusals import refused
from safetensors.torch import load_file, save_file
from tiny_controls import write_control_image, write_control_net, write_ip_adapter
from tiny_families import to_ddim
from tiny_pipeline import max_difference, normal, prompt_conditions, rng

from limbeck.cli.main import main
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.sampling import Sampling, sample_x0
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.bridge import Bridge
from limbeck.methods.dds import DDS
from limbeck.methods.ism import ISM
from limbeck.methods.nfsd import NFSD
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load
from limbeck.priors.stacked_conditions import stack_conditions
from limbeck.runs.sample_recorder import _conditions
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

KINDS = [("eps", "base"), ("eps", "plus"), ("xl", "base")]


@pytest.fixture(scope="module")
def adapters(folders, tmp_path_factory):
    """Returns the adapter of a family and the file of an image that is no square."""
    written = {}

    def files(family, kind="base"):
        if (family, kind) not in written:
            folder = tmp_path_factory.mktemp("adapter")
            write_control_image(folder / "square.png", 64)
            Image.open(folder / "square.png").crop((0, 0, 64, 40)).save(folder / "image.png")
            adapter = write_ip_adapter(folders(family), folder, kind)
            written[family, kind] = adapter, folder / "image.png"
        return written[family, kind]

    return files


def prompted(family, folders, adapters, kind="base", **options):
    adapter, image = adapters(family, kind)
    options = {"ip_adapter": str(adapter), "ip_image": image} | options
    return load_family(family, folders(family), **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "kind"), KINDS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_is_that_of_the_pipeline(family, kind, guidance, folders, adapters):
    prior = prompted(family, folders, adapters, kind, ip_scale=0.6)
    adapter, image = adapters(family, kind)
    pipe = getattr(diffusers, prior.index["_class_name"]).from_pretrained(folders(family))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = to_ddim(pipe.scheduler)
    pipe.load_ip_adapter(
        adapter.parent, subfolder="", weight_name=adapter.name, image_encoder_folder="image_encoder"
    )
    pipe.set_ip_adapter_scale(0.6)
    noise = torch.randn(2, *prior.shape, generator=rng(3))
    expected = pipe(
        prompt=[PROMPT, OTHER],
        ip_adapter_image=Image.open(image).convert("RGB"),
        height=16,
        width=16,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="latent",
        latents=noise.clone(),
    ).images
    x0 = sample_x0(prior, prompt_conditions(prior, [PROMPT, OTHER]), noise, STEPS, guidance)
    bound = 1e-5 * max(1.0, float(expected.abs().max()))
    assert max_difference(x0, expected) < bound
    plain = load_family(family, folders(family))
    without = sample_x0(plain, prompt_conditions(plain, [PROMPT, OTHER]), noise, STEPS, guidance)
    assert max_difference(x0, without) > 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_at_scale_0_it_is_the_plain_prior_bit_for_bit(family, kind, folders, adapters):
    plain = load_family(family, folders(family))
    assert same_predictions(plain, prompted(family, folders, adapters, kind, ip_scale=0.0))
    assert not same_predictions(plain, prompted(family, folders, adapters, kind))


def test_only_prompts_see_the_image(folders, adapters):
    """Not the empty prompt, negative prompts, sources of edits and texts of a method's own."""
    prior = prompted("eps", folders, adapters)
    image = prior.condition([PROMPT]).image_prompt
    assert image.shape == (1, 1, 16) and float(image.abs().max()) > 0

    def sees(condition):
        assert condition.image_prompt.shape == (len(condition), 1, 16)
        return condition.image_prompt.flatten(1).abs().amax(1) > 0

    assert sees(prior.condition([PROMPT, "", OTHER])).tolist() == [True, False, True]
    negative = NFSD(negative_prompt="low quality")
    for method, options in (
        (SDS(), {"negative_prompt": "low quality"}),
        (SDS(), {"negative_prompt": "low quality", "perp_neg": 1.0}),
        (DDS(), {"source_prompt": (OTHER,)}),
        (negative, {}),
    ):
        run = Run(Experiment((PROMPT,), method=method, particles=2, steps=1, **options), prior)
        inputs = run.advance().inputs
        conditions = inputs.conditions
        assert bool(sees(conditions.pos).all()) and not bool(sees(conditions.null).any())
        for condition, _ in conditions.perp_neg:
            assert not bool(sees(condition).any())
        if inputs.source is not None:
            assert not bool(sees(inputs.source.conditions.pos).any())
        if method is negative:
            assert not any(bool(sees(c).any()) for c in run.state.for_rows(inputs))
    sampling = Sampling((PROMPT,), negative_prompt="low quality")
    conditions = _conditions(sampling, prior)
    assert bool(sees(conditions.pos).all()) and not bool(sees(conditions.null).any())
    conditions = _conditions(replace(sampling, views=4), prior)
    assert bool(sees(conditions.pos).all()) and not bool(sees(conditions.null).any())


@pytest.mark.parametrize("source_prompt", [(), (OTHER,)])
def test_stage_two_of_bridge_compares_texts_beside_the_image(source_prompt, folders, adapters):
    """The source of an edit, and the empty prompt in place of unreadable suffixes, without it."""
    prior = prompted("eps", folders, adapters)
    image = prior.condition([PROMPT]).image_prompt
    for suffix in (", low quality", None):
        method = Bridge(stage_two_start=0.0, source_suffix=suffix)
        e = Experiment((PROMPT,), method=method, source_prompt=source_prompt, steps=1)
        run = Run(e, prior)
        y = run.state.transition(run.advance().inputs)
        assert torch.equal(y.pos.image_prompt, image)
        seen = suffix is not None and not source_prompt
        assert torch.equal(y.null.image_prompt, image * seen)


def test_conditions_keep_their_image_prompts():
    shown = torch.rand(4, 1, 5, generator=rng(1))
    one = Condition(torch.zeros(2, 5, 3), image_prompt=shown[:2])
    other = Condition(torch.ones(2, 5, 3), image_prompt=shown[2:])
    assert torch.equal(one.concat(other).image_prompt, shown)
    assert torch.equal(one[torch.tensor([1])].image_prompt, shown[1:2])
    chosen = one.where(torch.tensor([True, False]), other).image_prompt
    assert torch.equal(chosen, shown[[0, 3]])
    stacked = stack_conditions([one, other[:1]], 2, torch.float32)
    assert torch.equal(stacked.image_prompt, shown[[0, 1, 2, 2]])
    assert one.with_image_prompt_of(other).image_prompt is other.image_prompt


@pytest.mark.parametrize("method", [SDS(4.0), ISM(), VSD(critic=LoRACritic(2))], ids=type)
def test_two_steps_of_methods(method, folders, adapters):
    prior = prompted("eps", folders, adapters)
    run = Run(Experiment((PROMPT,), method=method, particles=2, steps=2), prior)
    steps = [run.advance() for _ in range(2)]
    assert all(bool(step.gradient.isfinite().all()) for step in steps)
    assert float(steps[1].gradient.abs().max()) > 0


def test_attention_maps_are_of_the_text_alone(folders, adapters):
    prior = prompted("eps", folders, adapters)
    condition = prior.condition([PROMPT])
    with torch.no_grad(), prior.capture_attention_maps() as maps:
        prior(normal(1, *prior.shape).float(), torch.tensor([0.5]), condition)
    found = maps[0].cross_attention
    assert found.shape[1] == condition.data.shape[1]
    assert max_difference(found.sum(1), torch.ones_like(found[:, 0])) < 1e-5


def test_a_lora_critic_leaves_its_layers_alone(folders, adapters):
    prior = prompted("eps", folders, adapters)
    plain = load_family("eps", folders("eps"))
    layers = {k: v.clone() for k, v in prior.unet.state_dict().items() if "processor" in k}
    assert layers
    conditions = prior.condition([PROMPT, OTHER, ""])
    before = predict_eps(prior, conditions)[0]
    run = train_lora_critic(prior)
    # as many adapters as on the network without an IP-Adapter, none on its layers
    assert run.state.adapters.names == train_lora_critic(plain).state.adapters.names
    adapted = predict_eps(prior, conditions, conditions.with_adapters(run.state.adapters))
    assert max_difference(adapted[0], before) < 1e-5 and max_difference(adapted[1], before) > 1e-3
    after = prior.unet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in layers.items())


def test_it_goes_with_a_control_net(folders, adapters, tmp_path):
    """The ControlNet sees the text alone, as in the pipeline of both."""
    control = write_control_net(folders("eps"), tmp_path / "depth")
    shape = write_control_image(tmp_path / "shape.png").expand(2, -1, -1, -1)
    options = {"control": str(control), "control_image": tmp_path / "shape.png"}
    prior = prompted("eps", folders, adapters, **options)
    adapter, image = adapters("eps")
    network = diffusers.ControlNetModel.from_pretrained(control)
    cls = diffusers.StableDiffusionControlNetPipeline
    pipe = cls.from_pretrained(folders("eps"), controlnet=network)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = to_ddim(pipe.scheduler)
    pipe.load_ip_adapter(
        adapter.parent, subfolder="", weight_name=adapter.name, image_encoder_folder="image_encoder"
    )
    noise = torch.randn(2, *prior.shape, generator=rng(3))
    expected = pipe(
        prompt=[PROMPT, OTHER],
        image=shape,
        ip_adapter_image=Image.open(image).convert("RGB"),
        height=16,
        width=16,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        output_type="latent",
        latents=noise.clone(),
    ).images
    x0 = sample_x0(prior, prompt_conditions(prior, [PROMPT, OTHER]), noise, STEPS, 4.0)
    assert max_difference(x0, expected) < 1e-5 * max(1.0, float(expected.abs().max()))


def test_rows_without_an_image_prompt_see_none(folders, adapters):
    prior = prompted("eps", folders, adapters)
    conditions = prior.condition([PROMPT, OTHER, PROMPT])
    empty = prior.condition([""] * 3)
    bare = Condition(conditions.data)
    expected = predict_eps(prior, conditions.with_image_prompt_of(empty))[0]
    assert torch.equal(predict_eps(prior, bare)[0], expected)
    xt = normal(3, *prior.shape, dtype=torch.float32)
    assert max_difference(prior(xt, TIMES, conditions)[0].eps, expected) > 1e-3


def test_samples_from_the_command_line(folders, adapters, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adapter, image = adapters("eps")
    line = ["sample", PROMPT, "--model", str(folders("eps")), "--model.ip-adapter", str(adapter)]
    line += ["--model.ip-image", str(image), "--steps", "2", "--num-images", "1"]
    assert main([*line, "--device", "cpu", "--out", "mugs"]) == 0, capsys.readouterr().err
    assert "torchvision" not in capsys.readouterr().err
    assert "ip-adapter-base" in (tmp_path / "mugs" / "sample.yaml").read_text(encoding="utf-8")


# refusals


def loading_error(**options):
    with pytest.raises(ValueError) as error:
        load(Model(**options), "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_wrong_files_are_refused_in_one_line(folders, adapters, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adapter, image = adapters("eps")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "adapter.bin").write_bytes(b"pickle")
    alone = shutil.copy(adapter, tmp_path / "alone.safetensors")
    other = folders("eps") / "unet" / "diffusion_pytorch_model.safetensors"
    for file, shown, expected in (
        ("none.safetensors", image, "no ip_adapter 'none.safetensors'"),
        ("adapter.bin", image, "others are not read, because unpickling runs code"),
        (other, image, "no tensors image_proj and ip_adapter, so it is no IP-Adapter"),
        (alone, image, "there is no image encoder in"),
        (adapter, tmp_path / "none.png", "no image file"),
        (adapter, tmp_path / "text.png", "is not an image"),
    ):
        line = ["sample", PROMPT, "--model", str(folders("eps")), "--device", "cpu"]
        line += ["--model.ip-adapter", str(file), "--model.ip-image", str(shown)]
        assert expected in refused(capsys, *line)
    line = ["sample", PROMPT, "--model", str(folders("eps")), "--model.ip-adapter", str(adapter)]
    assert "needs an image: give it with --model.ip-image FILE" in refused(capsys, *line)
    assert not (tmp_path / "samples").exists()


def test_options_without_effect_are_refused(tmp_path):
    for options in ({"ip_scale": 0.5}, {"ip_image": tmp_path}, {"ip_encoder": "folder"}):
        with pytest.raises(ValueError, match="needs an IP-Adapter: give it with"):
            Model("world", **options)


def test_adapters_of_other_networks_are_refused(folders, adapters, tmp_path):
    adapter, image = adapters("eps")
    shown = {"ip_adapter": str(adapter), "ip_image": image}
    for family in ("pixel", "flux"):
        with pytest.raises(ValueError, match="for which none is read"):
            load_family(family, folders(family), **shown)
    message = loading_error(name=str(folders("xl")), **shown)
    assert "layers of [32] numbers per token, the U-Net of the model" in message
    shutil.copytree(adapter.parent / "image_encoder", tmp_path / "image_encoder")
    weights = load_file(adapter)
    weights["image_proj.proj.weight"] = torch.zeros(4 * 32, 24)
    save_file(weights, tmp_path / "wide.safetensors")
    shown["ip_adapter"] = str(tmp_path / "wide.safetensors")
    message = loading_error(name=str(folders("eps")), **shown)
    assert re.search("gives 16 numbers, which .* does not take: give the encoder", message)
    del weights["ip_adapter.1.to_v_ip.weight"]
    save_file(weights, tmp_path / "wide.safetensors")
    message = loading_error(name=str(folders("eps")), **shown)
    assert "wide.safetensors" in message and "to_v_ip" in message


def test_files_of_the_hub_are_named_by_repository_and_path(
    folders, adapters, tmp_path, monkeypatch
):
    import limbeck.priors.ip_adapter

    adapter, image = adapters("eps")
    asked = []

    def resolve_files(model, names):
        asked.append((model, tuple(names)))
        shutil.copytree(adapter.parent, tmp_path / "models", dirs_exist_ok=True)
        return tmp_path

    monkeypatch.setattr(limbeck.priors.ip_adapter, "resolve_files", resolve_files)
    file = f"owner/name@v1/models/{adapter.name}"
    prior = load_family("eps", folders("eps"), ip_adapter=file, ip_image=image)
    encoder = [f"models/image_encoder/{name}" for name in ("config.json", "model.safetensors")]
    assert asked == [("owner/name@v1", (f"models/{adapter.name}", *encoder))]
    assert same_predictions(prior, prompted("eps", folders, adapters))
