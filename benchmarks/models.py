"""Steps per second of SDS and VSD with the shapes of Stable Diffusion 1.5, 2.1 and XL.

    python benchmarks/models.py [--device cuda] [--shapes sd15 sd21 xl] [--precision bfloat16]
        [--compile] [--steps 20] [--batch-size 1]
    python benchmarks/models.py --shapes sd15 --steps 1    # on a CPU: half a minute per step

Weights are random. "Utilization" is the FLOP of a step, counted by PyTorch, per second, divided by
the FLOP/s of a square matrix product of the same precision in the same process. Peaks are of the
device, or on a CPU of the whole process. XL takes 5.1 GB in 16 bits.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from contextlib import nullcontext

import torch
from measuring import peak_mb, print_header, print_row, seconds
from shapes import SHAPES
from step import METHODS, load_prior
from torch.utils.flop_counter import FlopCounterMode

from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.priors.loading import pick_device
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def matmul_flops(device: str, dtype: torch.dtype, repeats: int = 3) -> float:
    """FLOP/s of a square matrix product, the best of several."""
    size = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(a, b)

    multiply()
    return 2 * size**3 / min(seconds(multiply, device) for _ in range(repeats))


def measure(
    shape: str, device: str, runtime: RuntimeOptions, arguments: argparse.Namespace
) -> None:
    """Print one row per method."""
    start = time.perf_counter()
    prior = load_prior(shape, device, arguments.precision, runtime)
    weights = sum(p.numel() * p.element_size() for p in prior.network.parameters()) / 1e9
    print(f"<!-- {shape}: built in {time.perf_counter() - start:.0f} s -->", flush=True)
    for name in arguments.methods:
        method, batch_size = METHODS[name][0], arguments.batch_size
        run = Run(
            Experiment(("a red mug",), method=method, particles=batch_size, steps=100_000), prior
        )
        peak_mb(device, reset=True)
        counter = FlopCounterMode(display=False)
        # counting takes time, so only the first step is counted
        with counter if runtime.compile == "off" else nullcontext():
            first = seconds(run.advance, device)
        best = matmul_flops(device, getattr(torch, arguments.precision))
        median = statistics.median(seconds(run.advance, device) for _ in range(arguments.steps))
        flops = counter.get_total_flops()
        print_row(
            [
                f"{shape} ({weights:.1f} GB)",
                f"{name}, {arguments.precision}, {runtime.compile}",
                f"{1 / median:.3g}",
                f"{first:.1f}",
                f"{flops / 1e12:.2f}" if flops else "",
                f"{best / 1e9:.0f}",
                f"{100 * flops / median / best:.0f} %" if flops else "",
                f"{peak_mb(device) / 1e3:.1f}",
            ]
        )
        del run
        gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shapes", nargs="+", default=["sd15"], choices=list(SHAPES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runtime = RuntimeOptions(compile="on" if arguments.compile else "off")
    device = pick_device(arguments.device)
    costs = ["steps/s", "first call s", "TFLOP per step", "matmul GFLOP/s", "utilization"]
    print_header(["U-Net", "", *costs, "peak GB"])
    for shape in arguments.shapes:
        measure(shape, device, runtime, arguments)


if __name__ == "__main__":
    main()
