"""On CUDA a step waits for nothing, nor does what is recorded of it: every method on a pretended GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import fake_cuda
import pytest
import torch
from PIL import Image
from rich.console import Console

import limbeck.runs.recorder as recording
from limbeck.config.discovery import choices
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.noise import AntitheticNoise, DriftingNoise, InvertedNoise, PredictedNoise
from limbeck.distillation.projections.learned import LearnedProjection
from limbeck.distillation.projections.sampled import SampledProjection
from limbeck.distillation.rewards.image_statistics import ContrastReward
from limbeck.methods.base import Method
from limbeck.methods.esd import ESD
from limbeck.methods.lmc import LMC
from limbeck.methods.rewardsds import RewardSDS
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.methods.stein import Stein
from limbeck.methods.vsd import VSD
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.representations.noise import NoiseMap
from limbeck.representations.pixels import Pixels
from limbeck.runs.recorder import record
from limbeck.system.async_copy import AsyncCopies
from limbeck.system.checkpoint import read_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


@pytest.fixture(scope="module")
def near(eps_folder) -> Prior:
    """A prior on the pretended GPU."""
    with fake_cuda.gpu():
        prior = StableDiffusion(str(eps_folder), fake_cuda.GPU_NAME)
        prior.schedule.alpha(
            torch.ones(1, device=fake_cuda.GPU_NAME)
        )  # a device is given the table once
        return prior


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "grey.png"
    Image.new("RGB", (16, 16), (90, 120, 150)).save(path)
    return path


def waited(experiment: Experiment, prior: Prior, before: int = 1) -> list[tuple[str, str]]:
    """What the host waits for in a step of a run, after some steps ``before`` it."""
    with fake_cuda.gpu() as notes:
        run = Run(experiment, prior)
        for _ in range(before):
            run.advance()
        notes.clear()
        run.advance()
        return list(notes)


def of(method: Method, representation: RepresentationConfig, **more) -> Experiment:
    source = (
        ("a blue chair, on grey",)
        if type(method).__name__ in ("DDS", "PDS", "CDS", "IRFDS")
        else ()
    )
    return Experiment(
        ("a red mug",),
        method=method,
        representation=representation,
        particles=2,
        source_prompt=source,
        steps=4,
        **more,
    )


#: options by which a step is short
FEWER: dict[str, dict] = {
    "sdedit": {"k": 2}, "hifa": {"k": 2}, "sdi": {"strides": 3}, "dsd": {"strides": 3}, "reward-sds": {"noises": 4},
    "lmc": {"b": LearnedProjection(pictures=0)},
}  # fmt: skip


#: methods of which pixels are tried in every run of the tests: what they do with pictures is their own
PIXELS = ("sds", "vsd", "dds", "hifa", "repulsive")
EVERY = [(name, shown) for shown in ("latents", "pixels") for name in choices(Method)]


@pytest.mark.parametrize(("name", "shown"), [
    pytest.param(*pair, marks=pytest.mark.slow) if pair[1] == "pixels" and pair[0] not in PIXELS else pair for pair in EVERY
])  # fmt: skip
def test_no_method_waits(name, shown, near, picture):
    method, spec = (
        choices(Method)[name](**FEWER.get(name, {})),
        {"latents": Latents(), "pixels": Pixels()}[shown],
    )
    if name == "irfds":
        spec = NoiseMap(images=(picture,))
    assert waited(of(method, spec), near, before=int(shown == "latents")) == []


LEARNING = CriticTraining(unconditional=0.5, batch=3)
CRITICS: list[CriticConfig] = [
    LoRACritic(2, LEARNING), LoRACritic(2, replace(LEARNING, kind="v")), SmallUNetCritic(8, LEARNING), NullTextCritic(learning=LEARNING), ExactCritic(),
    ExactCritic(buffer=3),
]  # fmt: skip


@pytest.mark.parametrize(
    "critic", CRITICS, ids=lambda c: f"{type(c).__name__}-{getattr(c, 'buffer', '')}"
)
def test_no_critic_waits(critic, near):
    assert waited(of(VSD(critic=critic), Latents()), near) == []


OPTIONS: list[partial[Experiment]] = [
    *(partial(of, SDS(7.5), noise=how) for how in (DriftingNoise(), AntitheticNoise(), AntitheticNoise("rows"), PredictedNoise(), InvertedNoise(strides=3))),
    *(partial(of, SDI(kappa=kappa, renoise_jitter=True, strides=3, every=2)) for kappa in ("inverted", "cached")),
    partial(of, LMC(b=SampledProjection(1))), partial(of, RewardSDS(noises=4, scorer=ContrastReward())), partial(of, Stein(keep=0.5)),
    partial(of, ESD(entropy=0.3), batch_size=1), partial(of, SDS(7.5), perp_neg=1.0, negative_prompt="low quality"),
]  # fmt: skip


@pytest.mark.parametrize("make", OPTIONS, ids=str)
def test_no_option_waits(make, near):
    assert waited(make(Latents()), near) == []


def test_the_pretended_gpu_notices_what_would_wait():
    with fake_cuda.gpu() as notes:
        x = torch.zeros(3, device=fake_cuda.GPU_NAME)
        acts = {
            "item": lambda: x.sum().item(), "bool": lambda: bool(x.any()), "tolist": x.tolist, "cpu": x.cpu, "nonzero": x.nonzero,
            "mask": lambda: x[x > 0], "unique": x.unique, "host index": lambda: x[torch.tensor([0, 1])], "list": lambda: x[[0]],
            "to": lambda: torch.ones(2).to(x), "tensor": lambda: torch.tensor([1.0], device=x.device), "from": lambda: x.to("cpu"),
            "assigned": lambda: x.__setitem__(x > 0, 1.0), "copy": lambda: torch.zeros(3).copy_(x),
        }  # fmt: skip
        for name, act in acts.items():
            notes.clear()
            act()
            assert notes, name
        notes.clear()
        torch.ones(3).to(x.device, non_blocking=True).add(x)[torch.arange(2, device=x.device)].sum()
        assert notes == []
        with pytest.raises(RuntimeError, match="beside tensors of the GPU"):
            x + torch.ones(3)
    assert not torch.zeros(1).is_cuda


def test_on_the_pretended_gpu_a_run_is_that_of_the_cpu(eps_folder, near):
    e = of(VSD(7.5, critic=LoRACritic(2)), Pixels())
    here = Run(e, StableDiffusion(str(eps_folder)))
    for _ in range(2):
        here.advance()
    with fake_cuda.gpu():
        there = Run(e, near)
        for _ in range(2):
            there.advance()
        for (name, a), b in zip(here.tensors().items(), there.tensors().values(), strict=True):
            assert torch.allclose(a, b.cpu(), rtol=1e-4, atol=1e-5), name


def test_what_is_recorded_is_not_waited_for_either(near, tmp_path, monkeypatch):
    """Figures, pictures and checkpoints of every step, from the fourth on: the third is timed, which is said once."""
    notes: list[tuple[str, str]] = []
    advance = Run.advance

    def step(run: Run):
        if run.step == 3:
            fake_cuda.NOTES.clear()
        return advance(run)

    monkeypatch.setattr(Run, "advance", step)
    monkeypatch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(
        recording.Recorder, "finish", lambda self: notes.extend(fake_cuda.NOTES) or self.folder
    )
    e = replace(of(VSD(7.5, critic=LoRACritic(2)), Pixels()), steps=5)
    with fake_cuda.gpu():
        record(e, near, tmp_path / "run", every=1, console=Console(quiet=True))
    assert notes == []
    tensors, note = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert note["step"] == 5 and not any(
        isinstance(value, fake_cuda.There) for value in tensors.values()
    )
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert {
        f"step-{i:05d}{kind}.png"
        for i in range(1, 6)
        for kind in ("", "-x0", "-critic", "-gradient")
    } <= {path.name for path in (tmp_path / "run" / "images").iterdir()}


def test_copies_are_of_the_moment():
    x = torch.arange(6.0).reshape(2, 3)
    copies = AsyncCopies({"x": x, "turned": x.T})
    x.add_(1)
    out = copies.fetched()
    assert (
        torch.equal(out["x"], x - 1)
        and torch.equal(out["turned"], (x - 1).T)
        and out["turned"].is_contiguous()
    )
    assert out["x"].data_ptr() != out["turned"].data_ptr()
