"""Iterations of SDS and VSD with 1 to 64 particles on the embedded model: what a particle costs when it has company.

    python benchmarks/scaling.py [--device cuda] [--model world] [--most 64] [--precision bfloat16] [--steps 3]

Seconds are the processor's on a CPU, synchronised wall time on a GPU; peaks are of the device, or of the whole process.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from step import METHODS, made, peak, seconds

from limbeck.priors.loading import pick_device
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--model", default="world")
    arguments.add_argument("--most", type=int, default=64)
    arguments.add_argument("--precision", default="bfloat16")
    arguments.add_argument("--steps", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    device = pick_device(chosen.device)
    prior = made(chosen.model, device, chosen.precision)
    head = " | ".join(f"{name}: ms, ms per particle, peak MB" for name in METHODS)
    print(f"| particles | {head} |")
    print("|---|" + "---|" * len(METHODS))
    count = 1
    while count <= chosen.most:
        cells = []
        for method, _, _ in METHODS.values():
            run = Run(
                Experiment(("a red mug",), method=method, particles=count, steps=100_000), prior
            )
            peak(device, reset=True)
            run.advance()
            took = 1000 * statistics.median(
                seconds(run.advance, device) for _ in range(chosen.steps)
            )
            cells.append(f"{took:.0f}, {took / count:.1f}, {peak(device):.0f}")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)
        count *= 2


if __name__ == "__main__":
    main()
