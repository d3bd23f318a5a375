"""Cost of steps of SDS and VSD with 1 to 64 particles on the embedded model.

    python benchmarks/scaling.py [--device cuda] [--model world] [--max-particles 64]
        [--precision bfloat16] [--steps 3]

Times are CPU time on a CPU and synchronized wall time on a GPU; peaks are of the device, or
of the whole process.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from measuring import peak_mb, print_header, print_row, seconds
from step import METHODS, load_prior

from limbeck.priors.loading import pick_device
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="world")
    parser.add_argument("--max-particles", type=int, default=64)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    prior = load_prior(arguments.model, device, arguments.precision)
    columns = [f"{name}: ms, ms per particle, peak MB" for name in METHODS]
    print_header(["particles", *columns])
    count = 1
    while count <= arguments.max_particles:
        cells = []
        for method, _, _ in METHODS.values():
            experiment = Experiment(("a red mug",), method=method, particles=count, steps=100_000)
            run = Run(experiment, prior)
            peak_mb(device, reset=True)
            run.advance()
            times = [seconds(run.advance, device) for _ in range(arguments.steps)]
            median = 1000 * statistics.median(times)
            cells.append(f"{median:.0f}, {median / count:.1f}, {peak_mb(device):.0f}")
        print_row([count, *cells])
        count *= 2


if __name__ == "__main__":
    main()
