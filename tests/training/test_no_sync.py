"""No step and no recording synchronizes with the device: every method on a fake GPU."""

from __future__ import annotations

import json
from dataclasses import replace

import fake_cuda
import pytest
import torch
from allowed_times import times_for
from PIL import Image
from rich.console import Console
from tiny_controls import write_control_net, write_instruct_pix2pix, write_ip_adapter

import limbeck.runs.recorder as recorder_module
from limbeck.config.discovery import choices
from limbeck.config.scheduled_numbers import ScheduledNumber
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.distillation.control_variates import LearnedBaseline
from limbeck.distillation.critics.base import CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.discriminators.feature import FeatureDiscriminator
from limbeck.distillation.noise import AntitheticNoise, DriftingNoise, InvertedNoise, PredictedNoise
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.distillation.projections.sampled import SampledProjection
from limbeck.distillation.rewards.image_statistics import ContrastReward
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.esd import ESD
from limbeck.methods.lmc import LMC
from limbeck.methods.reward_sds import RewardSDS
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.methods.stein import Stein
from limbeck.methods.vsd import VSD
from limbeck.priors.instruct_pix2pix import InstructPix2Pix
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.representations.noise import NoiseMap
from limbeck.representations.pixels import Pixels
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.system.async_copy import AsyncCopies
from limbeck.system.checkpoint import read_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


@pytest.fixture(scope="module")
def gpu_prior(eps_folder) -> Prior:
    """A prior on the fake GPU."""
    with fake_cuda.gpu():
        prior = StableDiffusion(str(eps_folder), fake_cuda.GPU_NAME)
        # the table of the schedule is copied to a device once
        prior.schedule.alpha(torch.ones(1, device=fake_cuda.GPU_NAME))
        return prior


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "plain.png"
    Image.new("RGB", (16, 16), (90, 120, 150)).save(path)
    return path


def synchronizations(
    experiment: Experiment, prior: Prior, steps_before: int = 1
) -> list[tuple[str, str]]:
    """What the host waits for in a step, after ``steps_before`` others."""
    with fake_cuda.gpu() as notes:
        run = Run(experiment, prior)
        for _ in range(steps_before):
            run.advance()
        notes.clear()
        run.advance()
        return list(notes)


def make_experiment(method: Method, representation: RepresentationConfig, **options) -> Experiment:
    is_edit = method.optimizes == "noise" or (
        isinstance(method, EditMethod) and method.needs_source
    )
    return Experiment(
        ("a red mug",),
        method=method,
        representation=representation,
        particles=2,
        source_prompt=("a blue chair, on grey",) if is_edit else (),
        steps=4,
        **{"timesteps": times_for(method)} | options,
    )


#: options that make a step short
SHORT: dict[str, dict] = {
    "sdedit": {"denoise_steps": 2},
    "hifa": {"denoise_steps": 2},
    "sdi": {"inversion_steps": 3},
    "denoising-student": {"sampling_steps": 2},
    "dsd": {"ddim_steps": 3},
    "reward-sds": {"num_noises": 4},
    "reward-vsd": {"critic": LoRACritic(2)},
    "lmc": {"projection": LearnedProjection(num_images=0)},
    "f-distill": {"discriminator": FeatureDiscriminator(8, sampling_steps=2)},
}

#: methods that are always tested on pixels, because they do something of their own with images
PIXEL_METHODS = ("sds", "vsd", "dds", "hifa", "repulsive")
CASES = [pytest.param(name, Latents(), id=f"latents-{name}") for name in choices(Method)] + [
    pytest.param(
        name,
        Pixels(),
        id=f"pixels-{name}",
        marks=() if name in PIXEL_METHODS else pytest.mark.slow,
    )
    for name in choices(Method)
]


@pytest.mark.parametrize(("name", "representation"), CASES)
def test_no_method_synchronizes(name, representation, gpu_prior, image):
    method = choices(Method)[name](**SHORT.get(name, {}))
    steps_before = int(isinstance(representation, Latents))
    if name == "irfds":
        representation = NoiseMap(images=(image,))
    experiment = make_experiment(method, representation)
    assert synchronizations(experiment, gpu_prior, steps_before) == []


TRAINING = CriticTraining(unconditional_prob=0.5, batch_size=3)
CRITICS: dict[str, CriticConfig] = {
    "lora": LoRACritic(2, TRAINING),
    "lora-v": LoRACritic(2, replace(TRAINING, loss_target="v")),
    "small-unet": SmallUNetCritic(8, TRAINING),
    "null-text": NullTextCritic(training=TRAINING),
    "exact": ExactCritic(),
    "exact-buffer": ExactCritic(buffer=3),
}


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
def test_no_critic_synchronizes(critic, gpu_prior):
    assert synchronizations(make_experiment(VSD(critic=critic), Latents()), gpu_prior) == []


SHORT_SDI = SDI(renoise_jitter=True, inversion_steps=3, refresh_every=2)
SCHEDULED_TRAINING = CriticTraining(ScheduledNumber("exponential 1e-3 1e-4"))
EXPERIMENTS: dict[str, tuple[Method, dict]] = {
    "schedules": (VSD(ScheduledNumber("linear 9 2"), critic=LoRACritic(2, SCHEDULED_TRAINING)), {}),
    "drifting-noise": (SDS(7.5), {"noise": DriftingNoise()}),
    "antithetic-steps": (SDS(7.5), {"noise": AntitheticNoise()}),
    "antithetic-rows": (SDS(7.5), {"noise": AntitheticNoise("rows")}),
    "predicted-noise": (SDS(7.5), {"noise": PredictedNoise()}),
    "inverted-noise": (SDS(7.5), {"noise": InvertedNoise(inversion_steps=3)}),
    "sdi-inverted": (replace(SHORT_SDI, kappa="inverted"), {}),
    "sdi-cached": (replace(SHORT_SDI, kappa="cached"), {}),
    "lmc-sampled": (LMC(projection=SampledProjection(1)), {}),
    "reward-contrast": (RewardSDS(num_noises=4, reward_model=ContrastReward()), {}),
    "stein-learned": (Stein(phi=LearnedBaseline()), {}),
    "stein-ema": (Stein(ema_decay=0.5), {}),
    "esd-batch": (ESD(entropy_weight=0.3), {"batch_size": 1}),
    "perp-neg": (SDS(7.5), {"perp_neg": 1.0, "negative_prompt": "low quality"}),
}


@pytest.mark.parametrize(("method", "options"), EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_no_option_synchronizes(method, options, gpu_prior):
    experiment = make_experiment(method, Latents(), **options)
    assert synchronizations(experiment, gpu_prior) == []


def test_no_image_beside_the_prompt_synchronizes(eps_folder, image, tmp_path):
    """A ControlNet and an IP-Adapter, and the source image of InstructPix2Pix."""
    adapter = write_ip_adapter(eps_folder, tmp_path)
    shown = Model(
        control=str(write_control_net(eps_folder, tmp_path / "depth")),
        control_image=image,
        ip_adapter=str(adapter),
        ip_image=image,
        ip_encoder=str(adapter.parent / "image_encoder"),
    )
    instruct = write_instruct_pix2pix(eps_folder, tmp_path / "instruct")
    for cls, folder, model in (
        (StableDiffusion, eps_folder, shown),
        (InstructPix2Pix, instruct, Model()),
    ):
        with fake_cuda.gpu():
            prior = cls(str(folder), fake_cuda.GPU_NAME, model=model)
        method, latents = VSD(critic=LoRACritic(2, TRAINING)), Latents(images=(image,))
        experiment = make_experiment(method, latents, negative_prompt="low quality")
        assert synchronizations(experiment, prior) == [], cls


def test_the_fake_gpu_notes_synchronizations():
    with fake_cuda.gpu() as notes:
        x = torch.zeros(3, device=fake_cuda.GPU_NAME)
        actions = {
            "item": lambda: x.sum().item(),
            "bool": lambda: bool(x.any()),
            "tolist": x.tolist,
            "cpu": x.cpu,
            "nonzero": x.nonzero,
            "mask": lambda: x[x > 0],
            "unique": x.unique,
            "host index": lambda: x[torch.tensor([0, 1])],
            "list index": lambda: x[[0]],
            "to the GPU": lambda: torch.ones(2).to(x),
            "new tensor": lambda: torch.tensor([1.0], device=x.device),
            "from the GPU": lambda: x.to("cpu"),
            "masked assignment": lambda: x.__setitem__(x > 0, 1.0),
            "copy": lambda: torch.zeros(3).copy_(x),
        }
        for name, action in actions.items():
            notes.clear()
            action()
            assert notes, name
        notes.clear()
        torch.ones(3).to(x.device, non_blocking=True).add(x)[torch.arange(2, device=x.device)].sum()
        assert notes == []
        with pytest.raises(RuntimeError, match="with tensors of the GPU"):
            x + torch.ones(3)
    assert not torch.zeros(1).is_cuda


def test_a_run_on_the_fake_gpu_is_that_on_the_cpu(eps_folder, gpu_prior):
    experiment = make_experiment(VSD(7.5, critic=LoRACritic(2)), Pixels())
    cpu_run = Run(experiment, StableDiffusion(str(eps_folder)))
    for _ in range(2):
        cpu_run.advance()
    with fake_cuda.gpu():
        gpu_run = Run(experiment, gpu_prior)
        for _ in range(2):
            gpu_run.advance()
        pairs = zip(cpu_run.tensors().items(), gpu_run.tensors().values(), strict=True)
        for (name, a), b in pairs:
            assert torch.allclose(a, b.cpu(), rtol=1e-4, atol=1e-5), name


def test_recording_does_not_synchronize(gpu_prior, tmp_path, monkeypatch):
    """Metrics, images and checkpoints of every step from the fourth on; the third one is timed."""
    notes: list[tuple[str, str]] = []
    advance, folder = Run.advance, tmp_path / "run"

    def clear_notes_and_advance(run: Run):
        if run.step == 3:
            fake_cuda.NOTES.clear()
        return advance(run)

    def finish(recorder):
        notes.extend(fake_cuda.NOTES)
        return recorder.folder

    monkeypatch.setattr(Run, "advance", clear_notes_and_advance)
    monkeypatch.setattr(recorder_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(recorder_module.Recorder, "finish", finish)
    experiment = replace(make_experiment(VSD(7.5, critic=LoRACritic(2)), Pixels()), steps=5)
    with fake_cuda.gpu():
        recording = RecordingOptions(image_every=1)
        record(experiment, gpu_prior, folder, recording, console=Console(quiet=True))
    assert notes == []
    tensors, metadata = read_checkpoint(folder / "checkpoint.safetensors")
    assert metadata["step"] == 5
    assert not any(isinstance(value, fake_cuda.FakeCudaTensor) for value in tensors.values())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    kinds = ("", "-x0", "-critic", "-gradient")
    names = {path.name for path in (folder / "images").iterdir()}
    assert {f"step-{i:05d}{kind}.png" for i in range(1, 6) for kind in kinds} <= names


def test_async_copies_are_of_the_moment_they_were_made():
    x = torch.arange(6.0).reshape(2, 3)
    copies = AsyncCopies({"x": x, "transposed": x.T})
    x.add_(1)
    out = copies.to_cpu()
    assert torch.equal(out["x"], x - 1) and torch.equal(out["transposed"], (x - 1).T)
    assert out["transposed"].is_contiguous()
    assert out["x"].data_ptr() != out["transposed"].data_ptr()
