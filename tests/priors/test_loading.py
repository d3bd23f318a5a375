"""Loading of models: folders, single files, other autoencoders, resolution and weight variants."""

import shutil

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
from limbeck.priors.loading import load
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
        load(Model("gaussians", lora_scale=0.5))
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
