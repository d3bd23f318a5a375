"""Loading of models: folders, single files, other autoencoders, resolution and weight variants."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from family_pipelines import load_family, same_predictions
from safetensors.torch import load_file, save_file
from tiny_families import write_single, write_tiny_autoencoder
from tiny_pipeline import max_difference, rng

from limbeck.cli.main import main
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.diffusion.model_options import Model
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load, pick_precision
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

PROMPT = "a red mug"


# other autoencoders


def test_a_tiny_autoencoder_replaces_that_of_the_pipeline(folders, tmp_path):
    folder = write_tiny_autoencoder(tmp_path / "tiny")
    prior = load_family("eps", folders("eps"), vae=str(folder))
    vae = diffusers.AutoencoderTiny.from_pretrained(folder)
    images = [
        torch.rand(2, 3, 16, 16, generator=rng(1)).requires_grad_()
        for _ in ("limbeck", "diffusers")
    ]
    latents = prior.encode(images[0])
    expected = vae.encode(images[1] * 2 - 1).latents * vae.config.scaling_factor
    assert latents.shape == (2, *prior.shape) and max_difference(latents, expected) < 1e-6
    latents.square().sum().backward()
    expected.square().sum().backward()
    largest = float(images[1].grad.abs().max())
    assert max_difference(images[0].grad, images[1].grad) < 1e-5 * largest and largest > 0
    image = (vae.decode(expected.detach()).sample / 2 + 0.5).clamp(0, 1)
    assert max_difference(prior.decode(latents.detach()), image) < 1e-5
    assert same_predictions(prior, load_family("eps", folders("eps")))  # the network is the same


def test_an_autoencoder_of_other_latents_is_refused(folders, tmp_path):
    folder = write_tiny_autoencoder(tmp_path / "tiny", channels=8)
    with pytest.raises(ValueError, match="has 8 channels, the network 4"):
        load_family("eps", folders("eps"), vae=str(folder))


# single files


@pytest.fixture
def single(folders, tmp_path):
    """A single-file checkpoint, and a folder of configurations without weights."""
    no_weights = shutil.ignore_patterns("*.safetensors")
    config = shutil.copytree(folders("v"), tmp_path / "config", ignore=no_weights)
    return write_single(folders("v"), tmp_path / "mine.safetensors"), config


def test_a_single_file_is_the_same_as_its_folder(single, folders, capfd):
    file, config = single
    prior = load(Model(str(file), config=str(config)), "cpu")
    folder = load_family("v", folders("v"))
    assert same_predictions(prior, folder) and prior.prediction_type == "v"
    image = torch.rand(1, 3, 16, 16, generator=rng(1))
    assert torch.equal(prior.encode(image), folder.encode(image))
    assert torch.equal(prior.decode(prior.encode(image)), folder.decode(folder.encode(image)))
    assert capfd.readouterr().err == ""


def test_a_single_file_without_configuration_is_refused(single, cache):
    with pytest.raises(
        ValueError,
        match=r"needs the configurations and tokenizers of .*stable-diffusion-v1-5 .*model\.config",
    ):
        load(str(single[0]), "cpu")


def test_a_single_file_takes_the_configuration_of_its_layout_from_the_cache(single, cache, folders):
    cache.add("stable-diffusion-v1-5/stable-diffusion-v1-5", single[1])
    assert same_predictions(load(str(single[0]), "cpu"), load_family("v", folders("v")))


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("v_pred", "has a weight v_pred, but .* has prediction_type epsilon"),
        ("ztsnr", "has a weight ztsnr, but .* has no zero terminal SNR"),
    ],
)
def test_a_single_file_that_contradicts_its_configuration_is_refused(
    marker, message, single, folders, tmp_path
):
    file, config = single
    marked = tmp_path / "marked.safetensors"
    save_file(load_file(file) | {marker: torch.zeros(1)}, marked)
    load(Model(str(marked), config=str(config)), "cpu")  # predicts v, with zero terminal SNR
    with pytest.raises(ValueError, match=message):
        load(Model(str(marked), config=str(folders("eps"))), "cpu")


def test_a_pickle_is_not_read(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no \.safetensors file; others are not read"):
        load(str(tmp_path / "model.ckpt"), "cpu")


def test_an_unreadable_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is not a readable \.safetensors file"):
        load(str(tmp_path / "model.safetensors"), "cpu")


# folders


def test_fp16_weights_are_loaded_if_there_are_no_others(folders, tmp_path):
    folder = shutil.copytree(folders("xl"), tmp_path / "xl")
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert same_predictions(load_family("xl", folder), load_family("xl", folders("xl")))


def copy_folder(folder, target):
    return shutil.copytree(folder, target)


def change_config(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def name_variant(folder, variant, parts=("unet", "vae", "text_encoder")):
    for part in parts:
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("bf16", ("unet", "vae", "text_encoder")),
        ("non_ema", ("unet", "vae", "text_encoder")),
        ("fp16", ("unet",)),
    ],
)
def test_weights_of_any_variant_are_found(variant, parts, folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    name_variant(folder, variant, parts)
    assert same_predictions(load_family("eps", folder), load_family("eps", folders("eps")))


def test_full_precision_is_preferred_to_a_variant(folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    noise = {name: torch.zeros_like(value) for name, value in load_file(file).items()}
    for variant in ("fp16", "non_ema"):
        save_file(noise, file.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    assert same_predictions(load_family("eps", folder), load_family("eps", folders("eps")))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("eps", "StableDiffusionImg2ImgPipeline"),
        ("eps", "StableDiffusionInpaintPipeline"),
        ("xl", "StableDiffusionXLImg2ImgPipeline"),
        ("sd3", "StableDiffusion3InpaintPipeline"),
        ("pixart-sigma", "PixArtSigmaPAGPipeline"),
        ("sana", "SanaPAGPipeline"),
        ("klein", "Flux2KleinInpaintPipeline"),
        ("qwen", "QwenImageImg2ImgPipeline"),
    ],
)
def test_other_pipelines_of_a_family_are_read(family, name, folders, tmp_path):
    folder = copy_folder(folders(family), tmp_path / family)
    change_config(folder, "model_index.json", _class_name=name)
    assert same_predictions(load_family(family, folder), load_family(family, folders(family)))


@pytest.mark.parametrize(
    "name",
    [
        "StableVideoDiffusionPipeline",
        "SanaSprintPipeline",
        "SanaVideoPipeline",
        "Flux2KleinKVPipeline",
        "QwenImageEditPipeline",
        "QwenImage21Pipeline",
        "ZImagePipeline",
        None,
        ["a"],
    ],
)
def test_pipelines_of_no_family_are_refused(name, folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    change_config(folder, "model_index.json", _class_name=name)
    with pytest.raises(ValueError, match=r"model_index\.json: _class_name must be one of Stable"):
        load_family("eps", folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("change", ["missing", "size"])
def test_a_component_without_all_its_tensors_is_refused(part, change, folders, tmp_path):
    """A text encoder used to run on random weights instead."""
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name] = torch.zeros(3, 5, 7)
    if change == "missing":
        del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    message = {"missing": "lacks tensors of its model: ", "size": "does not fit .*: "}[change]
    with pytest.raises(ValueError, match=rf"{part}.{file.name} {message}{name}"):
        load_family("eps", folder).condition([PROMPT])


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_component_with_more_tensors_than_its_model_is_refused(part, folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    (file,) = (folder / part).glob("*.safetensors")
    save_file(load_file(file) | {"extra.weight": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fit .*: extra\.weight would be left out"):
        load_family("eps", folder)


@pytest.mark.parametrize("prefix", ["model.diffusion_model", "first_stage_model", "cond_stage"])
def test_a_single_file_without_all_its_tensors_is_refused(prefix, single, tmp_path):
    file, config = single
    tensors = load_file(file)
    name = min(name for name in tensors if name.startswith(prefix) and "norm" in name)
    del tensors[name]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"less\.safetensors \(\w+\) lacks tensors of its model"):
        load(Model(str(tmp_path / "less.safetensors"), config=str(config)), "cpu").condition([""])


class RunsCode:
    """A pickle that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_folder_with_pickled_code_is_refused(folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    (file,) = (folder / "unet").glob("*.safetensors")
    file.unlink()
    torch.save({"a": RunsCode(tmp_path / "ran")}, file.with_suffix(".bin"))
    with pytest.raises(ValueError, match="unet, a pickle of which only tensors are read") as error:
        load_family("eps", folder)
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_a_folder_of_pickled_tensors_is_read(folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    (file,) = (folder / "unet").glob("*.safetensors")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    read, expected = (load_family("eps", path).network for path in (folder, folders("eps")))
    for name, value in read.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])


@pytest.mark.parametrize(
    ("family", "value", "dtype"),
    [
        ("xl", None, torch.float32),  # absent: the default of the class, as in diffusers' XL
        ("xl", True, torch.float32),
        ("xl", False, torch.float16),
        ("eps", None, torch.float16),  # diffusers' pipeline of 1 and 2 does not upcast
        ("eps", True, torch.float32),
    ],
)
def test_autoencoders_in_float16_are_upcast_as_in_diffusers(
    family, value, dtype, folders, tmp_path
):
    folder = copy_folder(folders(family), tmp_path / family)
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    config.pop("force_upcast", None)
    path.write_text(json.dumps(config | ({} if value is None else {"force_upcast": value})))
    prior = load(str(folder), "cpu", "float16")
    assert prior.vae_dtype == dtype and next(prior.vae.parameters()).dtype == dtype
    assert next(prior.network.parameters()).dtype == torch.float16


def test_a_size_given_as_a_pair_is_read(folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    change_config(folder, "unet/config.json", sample_size=[8, 8])
    assert load(str(folder), "cpu").shape == load(str(folders("eps")), "cpu").shape


def test_a_missing_size_is_asked_for(folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    change_config(folder, "unet/config.json", sample_size=None)
    with pytest.raises(ValueError, match=r"unet.config\.json: sample_size .*: give --model\.res"):
        load(str(folder), "cpu")
    assert load(Model(str(folder), resolution=16), "cpu").image_size == (16, 16)


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("unet/config.json", "[1, 2]", "must hold a JSON object, not .1, 2."),
        ("unet/config.json", "", "unet.config.json is not valid JSON"),
        ("vae/config.json", "[" * 100_000, "vae.config.json is not valid JSON"),
        ("model_index.json", "{}", "model_index.json: _class_name must be one of"),
        (SCHEDULER, "{", "scheduler_config.json is not valid JSON"),
        (
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "{}",
            "index.json has no weight_map",
        ),
        ("tokenizer/tokenizer.json", "{}", "the tokenizer of .* cannot be loaded"),
        ("text_encoder/config.json", "{}", "does not fit .*text_encoder.config.json"),
    ],
)
def test_broken_text_files_are_refused_by_name(file, text, message, folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load(str(folder), "cpu").condition([PROMPT])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (SCHEDULER, {"num_train_timesteps": 0}, "must be a positive integer, not 0"),
        (SCHEDULER, {"num_train_timesteps": 10**12}, "a positive integer, not 1000000000000"),
        (SCHEDULER, {"num_train_timesteps": "many"}, "a positive integer, not 'many'"),
        (SCHEDULER, {"beta_end": 3}, "beta_end 3 must give betas between 0 and 1"),
        (SCHEDULER, {"beta_start": [1]}, "scheduler_config.json cannot be loaded"),
        (SCHEDULER, {"prediction_type": ["v"]}, "prediction_type must be one of epsilon"),
        ("unet/config.json", {"block_out_channels": 5}, "unet cannot be loaded"),
        (
            "unet/config.json",
            {"downsample_padding": None},
            "config.json: the unet cannot be loaded",
        ),
        ("unet/config.json", {"cross_attention_dim": 64}, "attn2.to_k.weight"),
        ("vae/config.json", {"scaling_factor": "a"}, "scaling_factor must be a number, not 'a'"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor must not be 0"),
        ("vae/config.json", {"latent_channels": 8}, "does not fit .*vae.config.json"),
        ("model_index.json", {"text_encoder": ["os", "system"]}, "is no text encoder of"),
        ("text_encoder/config.json", {"hidden_size": 17}, "text_encoder cannot be loaded"),
        ("text_encoder/config.json", {"num_hidden_layers": 5}, "lacks tensors of its model"),
    ],
)
def test_broken_configurations_are_refused_by_name(file, changes, message, folders, tmp_path):
    folder = change_config(copy_folder(folders("eps"), tmp_path / "eps"), file, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load(str(folder), "cpu").condition([PROMPT])
    assert "\n" not in str(error.value)


def test_an_empty_tokenizer_is_refused(folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="tokenizer is empty"):
        load(str(folder), "cpu")


def test_a_scheduler_without_its_package_is_read_if_its_file_says_all(
    folders, tmp_path, monkeypatch
):
    from diffusers.utils.dummy_torch_and_scipy_objects import LMSDiscreteScheduler

    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", LMSDiscreteScheduler)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    change_config(folder, SCHEDULER, _class_name="LMSDiscreteScheduler")
    assert same_predictions(load_family("eps", folder), load_family("eps", folders("eps")))
    (folder / SCHEDULER).write_text('{"_class_name": "LMSDiscreteScheduler"}')
    with pytest.raises(ValueError, match=r"has no prediction_type, .*: pip install torch scipy"):
        load_family("eps", folder)


def test_a_text_encoder_of_another_model_is_refused(folders, tmp_path):
    folder = copy_folder(folders("eps"), tmp_path / "eps")
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
        shutil.copytree(folders("xl") / f"{part}_2", folder / part)
    with pytest.raises(ValueError, match="gives 48 numbers per token, its unet takes 32"):
        load_family("eps", folder).condition([PROMPT])


def test_the_resolution_can_be_changed(folders):
    prior = load(Model(str(folders("xl")), resolution=32), "cpu")
    assert prior.shape == (4, 16, 16) and prior.image_size == (32, 32)
    with pytest.raises(ValueError, match="a multiple of 8 for this model, not 20"):
        load(Model(str(folders("xl")), resolution=20), "cpu")


def test_model_options_round_trip_through_yaml(tmp_path):
    model = Model(
        "some/one@two",
        lora=tmp_path / "x.safetensors",
        lora_scale=0.7,
        vae="some/tiny",
        config="c",
        resolution=512,
        guidance_embedding=2.0,
    )
    experiment = Experiment((PROMPT,), model=model)
    assert from_yaml(Experiment, to_yaml(experiment)) == experiment
    assert from_yaml(Experiment, "prompts: [a red mug]").model == Model()
    with pytest.raises(ValueError, match="takes no other --model options"):
        load(Model("gaussians", resolution=32))
    for option, value in (("resolution", -1), ("guidance_embedding", -1.0)):
        with pytest.raises(ValueError, match=option):
            Model(**{option: value})


@pytest.mark.parametrize("family", ["xl", "flux"])
def test_a_resumed_run_is_bit_identical(family, folders):
    method = VSD(critic=LoRACritic(2, CriticTraining(lr=1e-2)))
    experiment = Experiment((PROMPT,), method=method, particles=2, steps=4)
    whole, first, second = (Run(experiment, load_family(family, folders(family))) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second.load(first.tensors(), 2)
    for _ in range(2):
        second.advance()
    a, b = whole.tensors(), second.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_out_of_memory_error_is_reported_with_advice(folders, tmp_path, capsys, monkeypatch):
    """The host's own error, from inside a step of a tiny model."""
    forward = StableDiffusion._forward

    def allocate_too_much(prior, *args):
        torch.empty(2**50)
        return forward(prior, *args)

    monkeypatch.setattr(StableDiffusion, "_forward", allocate_too_much)
    folder, out = str(folders("eps")), str(tmp_path / "x")
    argv = ["run", PROMPT, "--model", folder, "--steps", "2", "--out", out, "--device", "cpu"]
    assert main(argv) == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    for words in (
        "out of memory",
        "--particles",
        "--batch-size",
        "--precision bfloat16",
        "--representation.size",
        "--model.vae",
    ):
        assert words in last_line


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_default_precision_is_that_of_the_processor(monkeypatch, has, dtype):
    monkeypatch.setattr("limbeck.priors.loading.cpu_has_bfloat16", lambda: has)
    assert pick_precision("auto", "cpu") == dtype
    assert pick_precision("float32", "cpu") == torch.float32
    assert load("world").network.dtype == dtype


@pytest.mark.parametrize("model", ["world", "world-mv"])
def test_loading_an_embedded_model_prints_nothing(model):
    code = f"from limbeck.priors.loading import load; load({model!r}, 'cpu')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("name", "meant"), [("gausians", "gaussians"), ("wrld", "world")])
def test_a_name_with_a_typing_error_is_told_the_one_like_it(name, meant):
    with pytest.raises(ValueError, match=rf"no model is called '{name}'. Did you mean {meant}\?"):
        load(name, "cpu")


@pytest.mark.parametrize("name", ["world/model", "world.safetensors"])
def test_a_hub_id_or_file_is_no_typing_error(name):
    with pytest.raises(ValueError) as error:
        load(name, "cpu")
    assert "Did you mean world" not in str(error.value)


def test_options_that_nothing_reads_are_refused(folders):
    with pytest.raises(ValueError, match=r"lora_scale needs a LoRA: give it with --model\.lora"):
        Model(lora_scale=0.3)
    with pytest.raises(ValueError, match="config /none is for a single-file checkpoint, but world"):
        load(Model("world", config="/none"), "cpu")
    vae = str(folders("eps") / "vae")
    with pytest.raises(ValueError, match="has no autoencoder to replace: leave it out"):
        load(Model(str(folders("pixel")), vae=vae), "cpu")
