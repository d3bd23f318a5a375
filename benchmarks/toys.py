"""Milliseconds of a step on an exact prior by number of particles: SDS, and VSD's exact critic.

    python benchmarks/toys.py [--steps 20]

One core; medians of CPU time. SDS runs on eight Gaussians in the plane, VSD on the twelve
images of 24 x 24 pixels of ``--model gaussians``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch

from limbeck import Experiment
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.training.trainer import Run


def ring() -> GaussianMixture:
    """Return eight Gaussians on the unit circle."""
    angle = torch.arange(8) * (math.pi / 4)
    return GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), torch.full((8,), 0.1))


def step_times(prior: GaussianMixture, method: Method, particles: int, steps: int) -> list[float]:
    """Return the CPU time of each step in milliseconds, the first two left out."""
    run = Run(Experiment(("disc",), method=method, particles=particles, steps=steps + 2), prior)
    times = []
    for _ in range(steps + 2):
        start = time.process_time()
        run.advance()
        times.append(1000 * (time.process_time() - start))
    return times[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    print("| numbers | method | particles | ms per step | us per particle |")
    print("|---|---|---|---|---|")
    cases = (
        (ring(), SDS(7.5), (1, 64, 1000, 4000)),
        (colored_shapes(), SDS(7.5), (1, 16, 256)),
        (colored_shapes(), VSD(7.5), (1, 4, 16, 64, 256)),
    )
    for prior, method, counts in cases:
        for particles in counts:
            milliseconds = statistics.median(step_times(prior, method, particles, steps))
            each = 1000 * milliseconds / particles
            print(
                f"| {prior.means[0].numel()} | {type(method).__name__} | {particles} | "
                f"{milliseconds:.2f} | {each:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
