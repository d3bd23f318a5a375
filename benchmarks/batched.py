"""One network call of several conditions compared with separate calls, for guidance and for VSD.

    python benchmarks/batched.py [--shape small] [--device cuda] [--batch-size 1] [--steps 5]
        [--precision bfloat16]

Both take turns. Times are medians: CPU time on a CPU, synchronized wall time on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch
from measuring import print_header, print_row, seconds
from shapes import SHAPES
from step import load_prior

from limbeck.priors.loading import pick_device
from limbeck.priors.lora_adapters import LoRAAdapters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    shapes = f"one of {', '.join(SHAPES)}, or a model by name"
    parser.add_argument("--shape", default="small", help=shapes)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, batch_size = pick_device(arguments.device), arguments.batch_size
    prior = load_prior(arguments.shape, device, arguments.precision)
    rng = torch.Generator().manual_seed(0)
    adapters = LoRAAdapters(prior.network, prior.adapter_rows, 4, rng)
    null, pos = (prior.condition([text]) for text in ("", "a red mug"))
    critic = pos.with_adapters(adapters)
    # conditions of each separate call
    cases = {
        "guidance, 2 rows": [(null,), (pos,)],
        "VSD, 2 rows and 1 of its critic": [(null, pos), (critic,)],
    }
    xt = torch.randn(batch_size, *prior.shape, device=device)
    t = torch.full((batch_size,), 0.5, device=device)

    def call(groups: list[tuple]) -> None:
        for conditions in groups:
            prior(xt, t, *conditions)

    together: dict[str, list[float]] = {name: [] for name in cases}
    separate: dict[str, list[float]] = {name: [] for name in cases}
    with torch.no_grad():
        for turn in range(arguments.steps + 1):
            for name, groups in cases.items():
                joined = [tuple(condition for group in groups for condition in group)]
                times = [seconds(partial(call, part), device) for part in (joined, groups)]
                if turn or not arguments.steps:  # the first turn warms up
                    together[name].append(times[0])
                    separate[name].append(times[1])
    title = f"{arguments.shape}, {batch_size} particle(s), {arguments.precision}"
    print_header([title, "one call ms", "separate calls ms", "ratio"])
    for name in cases:
        one, several = statistics.median(together[name]), statistics.median(separate[name])
        print_row([name, f"{1000 * one:.1f}", f"{1000 * several:.1f}", f"{one / several:.2f}"])


if __name__ == "__main__":
    main()
