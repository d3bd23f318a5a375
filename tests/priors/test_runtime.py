"""How a model is run changes what it costs and not what it says: layouts, attention, autoencoder, offload, precision, graphs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from run_folders import assert_same_run
from tiny_families import write_pixel
from tiny_pipeline import WORDS, max_difference, normal, prompt_conditions, rng
from torch import nn
from torch._inductor.cpu_vec_isa import InvalidVecISA

from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.diffusion.sampling import Sampling
from limbeck.diffusion.schedule import stable_diffusion_schedule
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.priors.compilation import can_vectorize_on_cpu
from limbeck.priors.loading import load
from limbeck.priors.lora_adapters import LoRAAdapters
from limbeck.priors.runtime import _MAX_PLAIN_SCORES, CPUAttention, OffloadedFunction, swap_devices
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.system.checkpoint import read_metadata
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

T = torch.tensor([0.1, 0.5, 0.9])
XT = normal(3, 4, 8, 8, dtype=torch.float32)
IMAGE = normal(2, 3, 16, 16, dtype=torch.float32).sigmoid()


def encoded(prior, image=IMAGE):
    """Latents, and the gradient that a fixed direction in them gives the image."""
    image = image.clone().requires_grad_()
    x0 = prior.encode(image)
    x0.backward(normal(*x0.shape, seed=5, dtype=torch.float32))
    return x0.detach(), image.grad


def test_layouts_say_the_same(eps_folder):
    plain, last = (
        StableDiffusion(str(eps_folder), runtime=RuntimeOptions(memory_format=how))
        for how in ("contiguous", "channels-last")
    )
    assert not plain.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert last.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        a, b = (p(XT, T, p.condition(WORDS[:3]))[0] for p in (plain, last))
    assert max_difference(a.eps, b.eps) < 1e-5
    for x, y in zip(encoded(plain), encoded(last), strict=True):
        assert max_difference(x, y) < 1e-5 * max(1.0, float(x.abs().max()))


def test_attention_on_a_cpu_is_fused_in_float32_and_plain_for_few_scores_in_16_bits(prior):
    processor = next(iter(prior.network.attn_processors.values()))
    assert isinstance(processor, CPUAttention)
    layer = next(m for n, m in prior.network.named_modules() if n.endswith("attn1"))
    asked = []
    tell = lambda name, inner: lambda *a: asked.append(name) or inner(*a)  # noqa: E731
    processor = CPUAttention()
    processor.fused, processor.plain = (
        tell("fused", AttnProcessor2_0()),
        tell("plain", AttnProcessor()),
    )
    x = normal(2, 16, layer.to_q.in_features, dtype=torch.float32)
    one = processor(layer, x)
    other = processor(layer.to(torch.bfloat16), x.bfloat16())
    side = int(_MAX_PLAIN_SCORES**0.5) + 1
    with torch.device("meta"):
        wide = x.new_empty(1, side, layer.to_q.in_features, dtype=torch.bfloat16, device="meta")
    processor(layer.to("meta"), wide)
    assert asked == ["fused", "plain", "fused"]
    assert max_difference(one, other.float()) < 0.03 * float(one.detach().abs().max())


@pytest.mark.parametrize(
    "how",
    [
        RuntimeOptions(vae_slicing=True),
        RuntimeOptions(gradient_checkpointing=True),
        RuntimeOptions(vae_tiling=True),
    ],
)
def test_the_autoencoder_in_slices_or_recomputed_gives_the_same_latents_and_gradient(
    eps_folder, how
):
    """Pictures of one tile are not cut."""
    plain, other = StableDiffusion(str(eps_folder)), StableDiffusion(str(eps_folder), runtime=how)
    for a, b in zip(encoded(plain), encoded(other), strict=True):
        assert max_difference(a, b) < 1e-5 * max(1.0, float(a.abs().max()))
    x0 = normal(2, 4, 8, 8, dtype=torch.float32)
    assert max_difference(plain.decode(x0), other.decode(x0)) < 1e-5


def test_checkpointing_keeps_fewer_activations(eps_folder):
    def kept(prior):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.append(x.numel()) or x, lambda x: x
        ):
            prior.encode(IMAGE.clone().requires_grad_())
        return sum(sizes)

    assert (
        kept(StableDiffusion(str(eps_folder), runtime=RuntimeOptions(gradient_checkpointing=True)))
        < kept(StableDiffusion(str(eps_folder))) / 2
    )


def test_work_with_fetched_modules_has_its_gradient_and_they_are_near_whenever_it_is_done(prior):
    near = []

    @contextmanager
    def fetched():
        near.append(True)
        yield
        near.append(False)

    def work(image):
        assert near[-1]
        return prior.encode(image)

    image = IMAGE.clone().requires_grad_()
    x0 = OffloadedFunction.apply(image, work, fetched)
    x0.backward(normal(*x0.shape, seed=5, dtype=torch.float32))
    expected, gradient = encoded(prior)
    assert torch.equal(x0.detach(), expected) and torch.equal(image.grad, gradient)
    assert near == [True, False, True, False]


def test_modules_swap_places_and_come_back_after_a_failure():
    a, b = nn.Linear(2, 2, device="meta"), nn.Linear(2, 2)
    where = lambda m: m.weight.device.type  # noqa: E731
    with pytest.raises(RuntimeError, match="inside"), swap_devices([], [b], "meta"):
        assert where(b) == "meta"
        b.to_empty(device="cpu")  # nothing leaves meta by itself
        raise RuntimeError("inside")
    assert where(a) == "meta" and where(b) == "cpu"


@pytest.mark.parametrize(
    ("running", "match"),
    [
        (RuntimeOptions(cpu_offload=True), "offload .* leave it out"),
        (RuntimeOptions(compile="graphs"), "graphs needs device cuda, not cpu"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(eps_folder, running, match):
    with pytest.raises(ValueError, match=match):
        StableDiffusion(str(eps_folder), runtime=running)


def test_what_cannot_go_together_or_has_no_object_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose one"):
        RuntimeOptions(cpu_offload=True, compile="graphs")
    with pytest.raises(ValueError, match="no network that could be run otherwise"):
        load("gaussians", runtime=RuntimeOptions(memory_format="contiguous"))
    with pytest.raises(ValueError, match="no autoencoder for vae_slicing"):
        load(str(write_pixel(tmp_path)), "cpu", runtime=RuntimeOptions(vae_slicing=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_16_bits_leaves_all_that_learns_in_float32(eps_folder, dtype):
    prior = StableDiffusion(str(eps_folder), "cpu", dtype)
    learning = CriticTraining(lr=1e-2)
    run = Run(
        Experiment(
            ("a red mug",), method=VSD(7.5, critic=LoRACritic(4, learning)), particles=2, steps=3
        ),
        prior,
    )
    step = run.advance()
    assert {p.dtype for p in prior.network.parameters()} == {dtype}
    float32 = [
        *run.representation.parameters(),
        *run.state.adapters.parameters(),
        step.gradient,
        step.inputs.x0,
        step.inputs.xt,
    ]
    assert {x.dtype for x in float32} == {torch.float32}
    for optimizer in (run.optimizer, run.state._trainer.optimizer):
        assert {
            v.dtype for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)
        } == {torch.float32}
    said = prior(XT, T, prior.condition(WORDS[:3]).with_adapters(run.state.adapters))[0]
    assert said.eps.dtype == said.x0.dtype == torch.float32
    said.eps.square().mean().backward()
    assert {p.grad.dtype for p in run.state.adapters.parameters()} == {torch.float32}


def test_a_schedule_copies_its_table_to_a_device_once():
    schedule, t = stable_diffusion_schedule(), torch.tensor([0.2, 0.7], dtype=torch.float64)
    a = schedule.alpha(t)
    table = schedule._table_on(t.device)
    assert schedule._table_on(t.device) is table and table.dtype == a.dtype == torch.float64
    assert schedule._table_on(torch.device("meta")) is schedule._table_on(torch.device("meta"))
    assert torch.equal(
        a,
        torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)[
            schedule.timestep_index(t)
        ].sqrt(),
    )


def test_rows_of_adapters_are_right_in_channels_last_and_16_bits(eps_folder):
    prior = StableDiffusion(
        str(eps_folder),
        "cpu",
        torch.bfloat16,
        runtime=RuntimeOptions(memory_format="channels-last"),
    )
    adapters = LoRAAdapters(prior.network, prior.adapter_rows, 4, rng())
    for up in adapters.up:
        up.data.normal_(generator=rng(1)).mul_(0.1)
    told = prompt_conditions(prior, WORDS[:3])
    with torch.no_grad():
        mixed = prior(XT, T, told.null, told.pos.with_adapters(adapters))
        apart = prior(XT, T, told.null), prior(XT, T, told.pos.with_adapters(adapters))
    scale = float(mixed[1].eps.abs().max())
    assert (
        max_difference(mixed[0].eps, apart[0][0].eps) < 0.03 * scale
        and max_difference(mixed[1].eps, apart[1][0].eps) < 0.03 * scale
    )


def test_every_way_into_a_model_can_say_how_it_is_run():
    how = RuntimeOptions(compile="on", vae_slicing=True)
    assert Experiment(("x",), runtime=how).runtime == Sampling(("x",), runtime=how).runtime == how
    assert partial(load, runtime=how).keywords["runtime"] is how


def test_graphs_that_would_be_without_vectors_are_warned_of(monkeypatch):
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.pick_vec_isa", lambda: InvalidVecISA())
    with pytest.warns(UserWarning, match="compiler there"):
        assert not can_vectorize_on_cpu()


COMPILED = """
import sys, torch
from dataclasses import replace
torch.set_num_threads(1)
from limbeck.distillation.critics import LowRank
from limbeck.training.experiment import Experiment
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.diffusion.prior import Running
from limbeck.priors.lora_adapters import Adapters
from limbeck.priors.stable_diffusion import Stable
from limbeck.training.trainer import Run
eager, graphs = Stable(sys.argv[1]), Stable(sys.argv[1], running=Running(compile="on"))

def pair(method, seed=0):
    experiment = Experiment(("a red mug",), method=method, particles=2, steps=10, seed=seed)
    return Run(experiment, eager), Run(experiment, graphs)

def compare(a, b, warm):
    made = graphs.call_counter.graphs
    # from the same state: Adam's first steps have the size of the rate, whatever rounding makes of a gradient near zero
    b.load({name: value.clone() for name, value in a.tensors().items()}, a.step)
    one, other = a.advance().gradient, b.advance().gradient
    assert (one - other).abs().max() < 1e-4 * one.abs().max(), (one - other).abs().max()
    assert not warm or graphs.call_counter.graphs == made, "made anew after warm-up"

sds = pair(SDS(7.5))
for i in range(3):
    compare(*sds, warm=i > 0)
assert graphs.call_counter.graphs == 1 and graphs.call_counter.compile_seconds > 0
with sds[0].cost.counting(), sds[1].cost.counting():  # the network as it is, since a graph would hide its operations
    compare(*sds, warm=True)
assert sds[1].cost.flops["method"] > 0
compare(*sds, warm=True)
first, second = pair(VSD(7.5, critic=LowRank(4))), pair(VSD(7.5, critic=LowRank(4)), seed=1)
for i in range(3):  # two critics under way on one network, and steps without any
    for runs in (first, second, sds):
        compare(*runs, warm=i > 0)
spent = first[1].cost.seconds
assert spent["warm-up"] > spent["method"] + spent["critic"], spent  # the graph of the critic's gradient, made at its first, too
x, t, told = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.6]), graphs.condition(["a red mug"] * 2)
made = graphs.call_counter.graphs
with torch.no_grad(), graphs.capture_attention() as seen:
    graphs(x, t, told)
assert seen and graphs.call_counter.graphs == made, "hooks that look inside need the network itself"
pose = torch.eye(4).expand(2, 4, 4) + torch.tensor([0.0, 1.0]).view(2, 1, 1)
def posed(prior):  # adapters that hear where they are looked from
    adapters = Adapters(prior.network, prior.adapter_rows, 4, torch.Generator().manual_seed(0), camera=True)
    for p in adapters.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(p.numel())).mul_(0.1)
    null = prior.condition([""])
    said = [prior(x, t, null, replace(told, adapters=adapters, pose=at))[1].eps for at in (pose, 2 * pose)]
    (said[0] * said[1]).sum().backward()
    return [*said, *(p.grad for p in adapters.parameters())]
one, other = posed(eager), posed(graphs)
assert all((a - b).abs().max() <= 1e-4 * a.abs().max() for a, b in zip(one, other, strict=True))
assert (one[0] - one[1]).abs().max() > 1e-3 and graphs.call_counter.graphs == made + 1, graphs.call_counter
print("graphs", made)
"""


@pytest.mark.slow
def test_graphs_say_what_the_network_says_whoever_the_critic_is_and_none_is_made_after_warm_up(
    eps_folder,
):
    out = subprocess.run(
        [sys.executable, "-c", COMPILED, str(eps_folder)], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert "graphs" in out.stdout


RECORDED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import limbeck.runs.recorder as recording
from limbeck.cli.main import main
from limbeck.training.trainer import Run
recording.CHECKPOINT_SECONDS = 0.0
folder, out, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
advance = Run.advance
def deadly(run):
    if run.step == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(run)
Run.advance = deadly
sys.exit(main(["run", "a red mug", "--model", folder, "--steps", "8", "--out", out, "--checkpoint-every", "4", "--runtime.compile", "on"]))
"""


@pytest.mark.slow
def test_a_compiled_run_that_was_killed_goes_on_bit_identically(eps_folder, tmp_path):
    """Three processes, each of which makes its graph or finds it where another has put it; the counted step has none."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def sitting(name, last):
        command = [sys.executable, "-c", RECORDED, str(eps_folder), str(tmp_path / name), str(last)]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    cut = sitting("cut", 4)
    assert cut.returncode == -signal.SIGKILL, cut.stderr[-2000:]
    assert read_metadata(tmp_path / "cut" / "checkpoint.safetensors")["step"] in (3, 4)
    for name in ("cut", "whole"):
        done = sitting(name, 99)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "warm-up: 1 graphs made in" in done.stderr
        assert json.loads((tmp_path / name / "profile.json").read_text())["seconds"]["warm-up"] > 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
