"""Iterations against what their networks alone take, in one process and one run, interleaved; and the peak of memory.

    python benchmarks/step.py [--shape small] [--device cuda] [--threads 1] [--batch-size 1] [--steps 5] [--compile]
    python benchmarks/step.py --shape world --batch-size 4 --steps 30        # overhead over the bare calls, embedded model
    python benchmarks/step.py --shape sd15 --steps 1 --precisions bfloat16

A unit is one float32 forward of two rows of the same U-Net as diffusers makes it: plain layout, eager, its own attention. "Bare"
are the forward passes of an iteration (and the critic's forward and backward) with tensors made beforehand, in the same precision,
and nothing else. All of them take turns, so that a change of the machine's load meets all; figures are medians, of the processor's
seconds on a CPU, which other work does not lengthen as it does wall time, and of synchronised wall time on a GPU.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES, prior
from torch import nn

from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load, pick_device
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

METHODS: dict[
    str, tuple[Method, int, int]
] = {  #: rows of a batch in the frozen call, and through the critic's step
    "SDS": (SDS(7.5), 2, 0),
    "VSD": (VSD(7.5), 3, 1),
}


def seconds(call: Callable[[], object], device: str) -> float:
    """Of one call: the processor's on a CPU, all threads together; wall time on a GPU."""
    gpu = device.startswith("cuda")
    clock = time.perf_counter if gpu else time.process_time
    if gpu:
        torch.cuda.synchronize()
    start = clock()
    call()
    if gpu:
        torch.cuda.synchronize()
    return clock() - start


def made(
    shape: str, device: str, precision: str, running: RuntimeOptions = RuntimeOptions()
) -> Any:  # noqa: B008
    if shape in SHAPES:
        return prior(shape, device, getattr(torch, precision), running)
    return load(shape, device, precision, runtime=running)  # type: ignore[arg-type]


def told(
    network: Any, rows: int, device: str, length: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a U-Net is called with."""
    c, dtype = network.config, network.dtype
    make = lambda *s: torch.randn(*s, device=device, dtype=dtype)  # noqa: E731
    more: dict[str, Any] = {}
    if c.addition_embed_type:
        more["added_cond_kwargs"] = {"text_embeds": make(rows, 1280), "time_ids": make(rows, 6)}
    words = (rows, length, c.cross_attention_dim)
    return (
        make(rows, c.in_channels, c.sample_size, c.sample_size),
        torch.full((rows,), 500, device=device),
        make(*words),
    ), more


def bare(run: Run, rows: int, trained: int) -> Callable[[], None]:
    """The network calls of one step and nothing else: ``rows`` forward, then ``trained`` with a backward to the adapters."""
    made: Any = run.prior
    length = run.conditions.pos.data.shape[1]
    ask, less = (told(made.network, n, made.device, length) for n in (rows, max(trained, 1)))
    critic: Any = run.state

    def call() -> None:
        with torch.no_grad():
            if trained:  # the last rows of the frozen call are the critic's
                index = torch.arange(rows - trained, rows, device=made.device)
                made.adapter_rows.activate(critic.adapters, index, False)
            made._ask(*ask[0], **ask[1])
            made.adapter_rows.clear()
        if trained:
            made.adapter_rows.activate(critic.adapters, torch.arange(trained, device=made.device), True)
            made._ask(*less[0], **less[1]).float().square().mean().backward()
            made.adapter_rows.clear()
            for p in critic.adapters.parameters():
                p.grad = None

    return call


def peak(device: str, reset: bool = False) -> float:
    """MB at the highest: on the device, or of the whole process, libraries and all (Linux; elsewhere 0)."""
    if device.startswith("cuda"):
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) * 1024 / 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument(
        "--shape", default="small", help=f"one of {', '.join(SHAPES)}, or what --model takes"
    )
    arguments.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments.add_argument("--batch-size", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--compile", action="store_true", help="compiled beside eager")
    arguments.add_argument(
        "--no-unit", action="store_true", help="without the float32 network, where memory is short"
    )
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    device, b = pick_device(chosen.device), chosen.batch
    sides: dict[str, Callable[[], object]] = {}
    runs: dict[str, Run] = {}
    for precision in chosen.precisions:
        for compile in ("off", "on") if chosen.compile else ("off",):
            of = made(chosen.shape, device, precision, RuntimeOptions(compile=compile))  # type: ignore[arg-type]
            for name in chosen.methods:
                method, rows, trained = METHODS[name]
                label = f"{name}, {precision}{', compiled' if compile == 'on' else ''}"
                runs[label] = Run(
                    Experiment(("a red mug",), method=method, particles=b, steps=100_000), of
                )
                sides[label], sides[f"{label}, bare"] = (
                    runs[label].advance,
                    bare(runs[label], rows * b, trained * b),
                )
    if not chosen.no_unit:
        from diffusers.models.attention_processor import AttnProcessor2_0

        plain: nn.Module = made(
            chosen.shape, device, "float32", RuntimeOptions(memory_format="contiguous")
        ).network
        plain.set_attn_processor(AttnProcessor2_0())  # type: ignore[operator]
        ask, more = told(plain, 2, device, next(iter(runs.values())).conditions.pos.data.shape[1])
        sides = {"unit": torch.no_grad()(lambda: plain(*ask, return_dict=False, **more))} | sides
    taken: dict[str, list[float]] = {name: [] for name in sides}
    highest: dict[str, float] = {}
    for turn in range(chosen.steps + 1):
        for name, call in sides.items():
            if turn == 0:
                peak(device, reset=True)
            taken[name].append(seconds(call, device))
            if turn == 0:
                highest[name] = peak(device)
    middle = {name: statistics.median(values[1:] or values) for name, values in taken.items()}
    where = f"{chosen.shape}, {b} particle(s), {chosen.threads} thread(s)"
    print(f"| {where} | ms | units | over the bare calls | peak MB | first call s |")
    print("|---|---|---|---|---|---|")
    for name in [n for n in sides if not n.endswith("bare")]:
        units = f"{middle[name] / middle['unit']:.2f}" if "unit" in middle else ""
        over = (
            f"{100 * (middle[name] / middle[f'{name}, bare'] - 1):+.1f} %"
            if f"{name}, bare" in middle
            else ""
        )
        print(
            f"| {name} | {1000 * middle[name]:.1f} | {units} | {over} | {highest[name]:.0f} | {taken[name][0]:.1f} |"
        )


if __name__ == "__main__":
    main()
