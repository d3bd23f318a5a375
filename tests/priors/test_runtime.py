"""Runtime options change cost, not results: memory format, attention, VAE, offload, compilation."""

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


def encode_with_gradient(prior, image=IMAGE):
    """Latents, and the gradient of a fixed direction in them for the image."""
    image = image.clone().requires_grad_()
    x0 = prior.encode(image)
    x0.backward(normal(*x0.shape, seed=5, dtype=torch.float32))
    return x0.detach(), image.grad


def test_memory_formats_give_the_same_results(eps_folder):
    contiguous, channels_last = (
        StableDiffusion(str(eps_folder), runtime=RuntimeOptions(memory_format=memory_format))
        for memory_format in ("contiguous", "channels-last")
    )
    for prior, expected in ((contiguous, False), (channels_last, True)):
        weight = prior.network.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == expected
    with torch.no_grad():
        a, b = (p(XT, T, p.condition(WORDS[:3]))[0] for p in (contiguous, channels_last))
    assert max_difference(a.eps, b.eps) < 1e-5
    a, b = encode_with_gradient(contiguous), encode_with_gradient(channels_last)
    for x, y in zip(a, b, strict=True):
        assert max_difference(x, y) < 1e-5 * max(1.0, float(x.abs().max()))


def test_attention_on_a_cpu_is_fused_in_float32_and_plain_for_few_scores_in_16_bits(prior):
    processor = next(iter(prior.network.attn_processors.values()))
    assert isinstance(processor, CPUAttention)
    layer = next(m for n, m in prior.network.named_modules() if n.endswith("attn1"))
    calls = []

    def recorded(name, attention):
        def call(*args):
            calls.append(name)
            return attention(*args)

        return call

    processor = CPUAttention()
    processor.fused = recorded("fused", AttnProcessor2_0())
    processor.plain = recorded("plain", AttnProcessor())
    features = layer.to_q.in_features
    x = normal(2, 16, features, dtype=torch.float32)
    fused = processor(layer, x)
    plain = processor(layer.to(torch.bfloat16), x.bfloat16())
    length = int(_MAX_PLAIN_SCORES**0.5) + 1
    long_sequence = x.new_empty(1, length, features, dtype=torch.bfloat16, device="meta")
    processor(layer.to("meta"), long_sequence)
    assert calls == ["fused", "plain", "fused"]
    assert max_difference(fused, plain.float()) < 0.03 * float(fused.detach().abs().max())


@pytest.mark.parametrize("option", ["vae_slicing", "vae_tiling", "gradient_checkpointing"])
def test_options_of_the_autoencoder_keep_latents_and_gradient(eps_folder, option):
    """An image that fits one tile is not split."""
    runtime = RuntimeOptions(**{option: True})
    plain = StableDiffusion(str(eps_folder))
    other = StableDiffusion(str(eps_folder), runtime=runtime)
    for a, b in zip(encode_with_gradient(plain), encode_with_gradient(other), strict=True):
        assert max_difference(a, b) < 1e-5 * max(1.0, float(a.abs().max()))
    x0 = normal(2, 4, 8, 8, dtype=torch.float32)
    assert max_difference(plain.decode(x0), other.decode(x0)) < 1e-5


def test_gradient_checkpointing_stores_fewer_activations(eps_folder):
    def num_stored(prior):
        sizes = []

        def pack(x):
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            prior.encode(IMAGE.clone().requires_grad_())
        return sum(sizes)

    runtime = RuntimeOptions(gradient_checkpointing=True)
    checkpointing = StableDiffusion(str(eps_folder), runtime=runtime)
    assert num_stored(checkpointing) < num_stored(StableDiffusion(str(eps_folder))) / 2


def test_an_offloaded_function_has_its_gradient_and_runs_only_in_its_context(prior):
    on_device = []

    @contextmanager
    def load_modules():
        on_device.append(True)
        yield
        on_device.append(False)

    def function(image):
        assert on_device[-1]
        return prior.encode(image)

    image = IMAGE.clone().requires_grad_()
    x0 = OffloadedFunction.apply(image, function, load_modules)
    x0.backward(normal(*x0.shape, seed=5, dtype=torch.float32))
    expected, gradient = encode_with_gradient(prior)
    assert torch.equal(x0.detach(), expected) and torch.equal(image.grad, gradient)
    assert on_device == [True, False, True, False]


def test_swapped_modules_come_back_after_a_failure():
    a, b = nn.Linear(2, 2, device="meta"), nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="inside"), swap_devices([], [b], "meta"):
        assert b.weight.device.type == "meta"
        b.to_empty(device="cpu")  # tensors of meta have no values to move
        raise RuntimeError("inside")
    assert a.weight.device.type == "meta" and b.weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        (RuntimeOptions(cpu_offload=True), "cpu_offload .* leave it out"),
        (RuntimeOptions(compile="graphs"), "graphs needs device cuda, not cpu"),
    ],
)
def test_options_for_a_gpu_are_refused_on_a_cpu(eps_folder, runtime, message):
    with pytest.raises(ValueError, match=message):
        StableDiffusion(str(eps_folder), runtime=runtime)


def test_options_that_conflict_or_have_no_effect_are_refused(tmp_path):
    with pytest.raises(ValueError, match="choose one"):
        RuntimeOptions(cpu_offload=True, compile="graphs")
    with pytest.raises(ValueError, match="has no network, so --runtime has no effect"):
        load("gaussians", runtime=RuntimeOptions(memory_format="contiguous"))
    with pytest.raises(ValueError, match="no autoencoder for vae_slicing"):
        load(str(write_pixel(tmp_path)), "cpu", runtime=RuntimeOptions(vae_slicing=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_with_a_network_in_16_bits_everything_trained_is_float32(eps_folder, dtype):
    prior = StableDiffusion(str(eps_folder), "cpu", dtype)
    method = VSD(7.5, critic=LoRACritic(4, CriticTraining(lr=1e-2)))
    run = Run(Experiment(("a red mug",), method=method, particles=2, steps=3), prior)
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
        values = [v for state in optimizer.state.values() for v in state.values()]
        assert {v.dtype for v in values if torch.is_tensor(v)} == {torch.float32}
    conditions = prior.condition(WORDS[:3]).with_adapters(run.state.adapters)
    prediction = prior(XT, T, conditions)[0]
    assert prediction.eps.dtype == prediction.x0.dtype == torch.float32
    prediction.eps.square().mean().backward()
    assert {p.grad.dtype for p in run.state.adapters.parameters()} == {torch.float32}


def test_a_schedule_copies_its_table_to_a_device_once():
    schedule, t = stable_diffusion_schedule(), torch.tensor([0.2, 0.7], dtype=torch.float64)
    a = schedule.alpha(t)
    table = schedule._table_on(t.device)
    assert schedule._table_on(t.device) is table and table.dtype == a.dtype == torch.float64
    assert schedule._table_on(torch.device("meta")) is schedule._table_on(torch.device("meta"))
    alphas_cumprod = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    assert torch.equal(a, alphas_cumprod[schedule.timestep_index(t)].sqrt())


def test_rows_of_adapters_are_right_in_channels_last_and_16_bits(eps_folder):
    runtime = RuntimeOptions(memory_format="channels-last")
    prior = StableDiffusion(str(eps_folder), "cpu", torch.bfloat16, runtime=runtime)
    adapters = LoRAAdapters(prior.network, prior.adapter_rows, 4, rng())
    for _, up in adapters.pairs:
        up.normal_(generator=rng(1)).mul_(0.1)
    conditions = prompt_conditions(prior, WORDS[:3])
    both = conditions.null, conditions.pos.with_adapters(adapters)
    with torch.no_grad():
        mixed = prior(XT, T, *both)
        separate = [prior(XT, T, condition)[0] for condition in both]
    scale = float(mixed[1].eps.abs().max())
    for a, b in zip(mixed, separate, strict=True):
        assert max_difference(a.eps, b.eps) < 0.03 * scale


def test_runs_and_sampling_take_runtime_options():
    runtime = RuntimeOptions(compile="on", vae_slicing=True)
    assert Experiment(("x",), runtime=runtime).runtime == runtime
    assert Sampling(("x",), runtime=runtime).runtime == runtime
    assert partial(load, runtime=runtime).keywords["runtime"] is runtime


def test_compilation_without_vector_code_is_warned_of(monkeypatch):
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.pick_vec_isa", lambda: InvalidVecISA())
    with pytest.warns(UserWarning, match=r"C\+\+ compiler is installed"):
        assert not can_vectorize_on_cpu()


COMPILED = """
import sys
from dataclasses import replace
import torch
from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.lora_adapters import LoRAAdapters
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run
torch.set_num_threads(1)
eager = StableDiffusion(sys.argv[1])
compiled = StableDiffusion(sys.argv[1], runtime=RuntimeOptions(compile="on"))
counter = compiled.call_counter

def runs(method, seed=0):
    experiment = Experiment(("a red mug",), method=method, particles=2, steps=10, seed=seed)
    return Run(experiment, eager), Run(experiment, compiled)

def compare(a, b, warm):
    graphs = counter.compiled_graphs
    # from the same state: Adam's first steps have the size of the learning rate, whatever rounding
    # makes of a gradient near zero
    b.load({name: value.clone() for name, value in a.tensors().items()}, a.step)
    x, y = a.advance().gradient, b.advance().gradient
    assert (x - y).abs().max() < 1e-4 * x.abs().max(), (x - y).abs().max()
    assert not warm or counter.compiled_graphs == graphs, "recompiled after warm-up"

sds = runs(SDS(7.5))
for i in range(3):
    compare(*sds, warm=i > 0)
assert counter.compiled_graphs == 1 and counter.compile_seconds > 0
# while operations are counted, the network is called eagerly
with sds[0].profile.count_ops(), sds[1].profile.count_ops():
    compare(*sds, warm=True)
assert sds[1].profile.flops["method"] > 0
compare(*sds, warm=True)

# two critics on one network at the same time, and steps without any
vsd = [runs(VSD(7.5, critic=LoRACritic(4)), seed=seed) for seed in (0, 1)]
for i in range(3):
    for pair in (*vsd, sds):
        compare(*pair, warm=i > 0)
# compilation includes the backward graph of the critic, at its first step
seconds = vsd[0][1].profile.seconds
assert seconds["compilation"] > seconds["method"] + seconds["critic"], seconds

x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.6])
conditions = compiled.condition(["a red mug"] * 2)
graphs = counter.compiled_graphs
with torch.no_grad(), compiled.capture_attention() as outputs:
    compiled(x, t, conditions)
assert outputs and counter.compiled_graphs == graphs, "hooks need the eager network"

pose = torch.eye(4).expand(2, 4, 4) + torch.tensor([0.0, 1.0]).view(2, 1, 1)

def camera_conditioned(prior):
    rng = torch.Generator().manual_seed(0)
    adapters = LoRAAdapters(prior.network, prior.adapter_rows, 4, rng, camera=True)
    for p in adapters.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(p.numel())).mul_(0.1)
    null, outputs = prior.condition([""]), []
    for one_pose in (pose, 2 * pose):
        adapted = replace(conditions, adapters=adapters, pose=one_pose)
        outputs.append(prior(x, t, null, adapted)[1].eps)
    (outputs[0] * outputs[1]).sum().backward()
    return [*outputs, *(p.grad for p in adapters.parameters())]

a, b = camera_conditioned(eager), camera_conditioned(compiled)
for x, y in zip(a, b, strict=True):
    assert (x - y).abs().max() <= 1e-4 * x.abs().max()
assert (a[0] - a[1]).abs().max() > 1e-3 and counter.compiled_graphs == graphs + 1, counter
print("graphs", graphs)
"""


@pytest.mark.slow
def test_compiled_and_eager_predictions_agree_and_nothing_is_recompiled_after_warm_up(eps_folder):
    command = [sys.executable, "-c", COMPILED, str(eps_folder)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    assert "graphs" in out.stdout


RUN_AND_KILL = """
import os, signal, sys
import torch
import limbeck.runs.recorder
from limbeck.cli.main import main
from limbeck.training.trainer import Run
torch.set_num_threads(1)
limbeck.runs.recorder.CHECKPOINT_SECONDS = 0.0
folder, out, last_step = sys.argv[1], sys.argv[2], int(sys.argv[3])
advance = Run.advance
def advance_or_die(run):
    if run.step == last_step:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(run)
Run.advance = advance_or_die
argv = ["run", "a red mug", "--model", folder, "--steps", "8", "--out", out]
sys.exit(main([*argv, "--image-every", "4", "--runtime.compile", "on"]))
"""


@pytest.mark.slow
def test_a_compiled_run_that_was_killed_is_resumed_bit_identically(eps_folder, tmp_path):
    """Three processes, which compile or read the cache on disk; counted steps are eager."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run_until(out, last_step):
        argv = [str(eps_folder), str(tmp_path / out), str(last_step)]
        command = [sys.executable, "-c", RUN_AND_KILL, *argv]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    killed = run_until("killed", 4)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert read_metadata(tmp_path / "killed" / "checkpoint.safetensors")["step"] in (3, 4)
    for out in ("killed", "whole"):
        done = run_until(out, 99)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "warm-up: compiled 1 graphs in" in done.stderr
        profile = json.loads((tmp_path / out / "profile.json").read_text())
        assert profile["seconds"]["compilation"] > 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
