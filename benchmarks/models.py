"""Iterations per second of SDS and VSD at the true shapes of Stable Diffusion 1.5, 2.1 and XL, with random weights.

    python benchmarks/models.py [--device cuda] [--shapes sd15 sd21 xl] [--precision bfloat16] [--compile] [--steps 20] [--batch-size 1]
    python benchmarks/models.py --shapes sd15 --steps 1        # on a CPU: half a minute or more an iteration

"Share" is what an iteration does, counted by PyTorch while it runs, by what a square matrix product of the same precision reaches
in the same run. Peaks are of the device, or on a CPU of the whole process. XL holds 5.1 GB in 16 bits.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from contextlib import nullcontext

import torch
from shapes import SHAPES
from step import METHODS, made, peak, seconds
from torch.utils.flop_counter import FlopCounterMode

from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.priors.loading import pick_device
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def rate(device: str, dtype: torch.dtype, repeats: int = 3) -> float:
    """Operations per second of a square matrix product."""
    side = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(repeats))


def measure(
    shape: str,
    device: str,
    precision: str,
    how: RuntimeOptions,
    batch: int,
    steps: int,
    names: list[str],
) -> None:
    start = time.perf_counter()
    prior = made(shape, device, precision, how)
    weights = sum(p.numel() * p.element_size() for p in prior.network.parameters()) / 1e9
    print(f"<!-- {shape}: made in {time.perf_counter() - start:.0f} s -->", flush=True)
    for name in names:
        run = Run(
            Experiment(("a red mug",), method=METHODS[name][0], particles=batch, steps=100_000),
            prior,
        )
        peak(device, reset=True)
        counter = FlopCounterMode(display=False)
        with (
            counter if how.compile == "off" else nullcontext()
        ):  # counting costs time, and so the first iteration is not the figure
            first = seconds(run.advance, device)
        best = rate(device, getattr(torch, precision))
        took = statistics.median(seconds(run.advance, device) for _ in range(steps))
        work = counter.get_total_flops()
        share = f"{100 * work / took / best:.0f} %" if work else ""
        cells = (
            f"{1 / took:.3g}",
            f"{first:.1f}",
            f"{work / 1e12:.2f}" if work else "",
            f"{best / 1e9:.0f}",
            share,
            f"{peak(device) / 1e3:.1f}",
        )
        print(
            f"| {shape} ({weights:.1f} GB) | {name}, {precision}, {how.compile} | {' | '.join(cells)} |",
            flush=True,
        )
        del run
        gc.collect()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--shapes", nargs="+", default=["sd15"], choices=list(SHAPES))
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments.add_argument("--precision", default="bfloat16")
    arguments.add_argument("--batch-size", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--compile", action="store_true")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    how, device = (
        RuntimeOptions(compile="on" if chosen.compile else "off"),
        pick_device(chosen.device),
    )
    print(
        "| U-Net | | iterations/s | first call s | Tflop an iteration | matmul Gflop/s | share | peak GB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for shape in chosen.shapes:
        measure(shape, device, chosen.precision, how, chosen.batch, chosen.steps, chosen.methods)


if __name__ == "__main__":
    main()
