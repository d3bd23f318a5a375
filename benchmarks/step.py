"""Compare steps with their bare network calls, in one process, interleaved; also peak memory.

    python benchmarks/step.py [--shape small] [--device cuda] [--threads 1] [--batch-size 1]
        [--steps 5] [--compile]
    python benchmarks/step.py --shape world --batch-size 4 --steps 30      # overhead per step
    python benchmarks/step.py --shape sd15 --steps 1 --precisions bfloat16

A unit is one float32 forward pass of two rows through the same U-Net as diffusers builds it: plain
memory layout, eager, diffusers' attention. "Bare" calls are the forward passes of a step (and the
forward and backward pass of the critic) in the same precision, with inputs prepared beforehand and
nothing else. All of them take turns, so that changes of the load of the machine affect all. Times
are medians: CPU time on a CPU, synchronized wall time on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import peak_mb, print_header, print_row, seconds
from shapes import SHAPES, random_prior
from torch import Tensor, nn

from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load, pick_device
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

#: method, rows of the frozen network call per particle, rows of the critic's training call
METHODS: dict[str, tuple[Method, int, int]] = {
    "SDS": (SDS(7.5), 2, 0),
    "VSD": (VSD(7.5, critic=LoRACritic()), 3, 1),
}


def load_prior(
    shape: str,
    device: str,
    precision: str,
    runtime: RuntimeOptions = RuntimeOptions(),  # noqa: B008
) -> Any:
    """A random prior of one of ``SHAPES``, or a model by name."""
    if shape in SHAPES:
        return random_prior(shape, device, getattr(torch, precision), runtime)
    return load(shape, device, precision, runtime)  # type: ignore[arg-type]


def network_inputs(
    network: Any, rows: int, device: str, num_tokens: int
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Random arguments of a U-Net call."""
    config, options = network.config, {"device": device, "dtype": network.dtype}
    keywords: dict[str, Any] = {}
    if config.addition_embed_type:
        keywords["added_cond_kwargs"] = {
            "text_embeds": torch.randn(rows, 1280, **options),
            "time_ids": torch.randn(rows, 6, **options),
        }
    size = config.sample_size
    latents = torch.randn(rows, config.in_channels, size, size, **options)
    text = torch.randn(rows, num_tokens, config.cross_attention_dim, **options)
    return (latents, torch.full((rows,), 500, device=device), text), keywords


def bare_calls(run: Run, rows: int, trained_rows: int) -> Callable[[], None]:
    """The network calls of one step and nothing else.

    Args:
        run: the run.
        rows: rows of the frozen forward pass.
        trained_rows: rows of the forward and backward pass of the critic; 0 for no critic.
    """
    prior: Any = run.prior
    critic: Any = run.state
    num_tokens = run.prompts.conditions.pos.data.shape[1]
    frozen = network_inputs(prior.network, rows, prior.device, num_tokens)
    trained = network_inputs(prior.network, max(trained_rows, 1), prior.device, num_tokens)

    def call() -> None:
        with torch.no_grad():
            if trained_rows:  # the last rows of the frozen call pass through the adapters
                prior.adapter_rows.activate(critic.adapters, rows - trained_rows, prior.dtype)
            prior._run_network(*frozen[0], **frozen[1])
            prior.adapter_rows.clear()
        if not trained_rows:
            return
        prior.adapter_rows.activate(critic.adapters, 0, prior.dtype)
        prior._run_network(*trained[0], **trained[1]).float().square().mean().backward()
        prior.adapter_rows.clear()
        for p in critic.adapters.parameters():
            p.grad = None

    return call


def unit_call(shape: str, device: str, num_tokens: int) -> Callable[[], None]:
    """The float32 forward pass of two rows that times are compared with."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    runtime = RuntimeOptions(memory_format="contiguous")
    network: nn.Module = load_prior(shape, device, "float32", runtime).network
    network.set_attn_processor(AttnProcessor2_0())  # type: ignore[operator]
    inputs, keywords = network_inputs(network, 2, device, num_tokens)

    @torch.no_grad()
    def call() -> None:
        network(*inputs, return_dict=False, **keywords)

    return call


def make_calls(arguments: argparse.Namespace, device: str) -> dict[str, Callable[[], object]]:
    """Everything to time, by label; bare calls have the suffix ``, bare``."""
    batch_size = arguments.batch_size
    calls: dict[str, Callable[[], object]] = {}
    num_tokens = 0
    for precision in arguments.precisions:
        for compile in ("off", "on") if arguments.compile else ("off",):
            runtime = RuntimeOptions(compile=compile)  # type: ignore[arg-type]
            prior = load_prior(arguments.shape, device, precision, runtime)
            for name in arguments.methods:
                method, rows, trained_rows = METHODS[name]
                experiment = Experiment(
                    ("a red mug",), method=method, particles=batch_size, steps=100_000
                )
                run = Run(experiment, prior)
                num_tokens = run.prompts.conditions.pos.data.shape[1]
                label = f"{name}, {precision}{', compiled' if compile == 'on' else ''}"
                calls[label] = run.advance
                calls[f"{label}, bare"] = bare_calls(
                    run, rows * batch_size, trained_rows * batch_size
                )
    if arguments.no_unit:
        return calls
    return {"unit": unit_call(arguments.shape, device, num_tokens), **calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    shapes = f"one of {', '.join(SHAPES)}, or a model by name"
    parser.add_argument("--shape", default="small", help=shapes)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also compiled")
    parser.add_argument("--no-unit", action="store_true", help="skip the unit, to save memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    calls = make_calls(arguments, device)
    times: dict[str, list[float]] = {name: [] for name in calls}
    peaks: dict[str, float] = {}
    for turn in range(arguments.steps + 1):
        for name, call in calls.items():
            if turn == 0:
                peak_mb(device, reset=True)
            times[name].append(seconds(call, device))
            if turn == 0:
                peaks[name] = peak_mb(device)
    median = {name: statistics.median(values[1:] or values) for name, values in times.items()}
    title = f"{arguments.shape}, {arguments.batch_size} particle(s), {arguments.threads} thread(s)"
    print_header([title, "ms", "units", "overhead over bare calls", "peak MB", "first call s"])
    for name in [name for name in calls if not name.endswith("bare")]:
        units = f"{median[name] / median['unit']:.2f}" if "unit" in median else ""
        bare = median.get(f"{name}, bare")
        overhead = f"{100 * (median[name] / bare - 1):+.1f} %" if bare else ""
        milliseconds, first = f"{1000 * median[name]:.1f}", f"{times[name][0]:.1f}"
        print_row([name, milliseconds, units, overhead, f"{peaks[name]:.0f}", first])


if __name__ == "__main__":
    main()
