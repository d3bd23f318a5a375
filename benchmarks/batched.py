"""One call of several conditions against calls apart: what guidance asks, and what VSD asks of the frozen network and its critic.

    python benchmarks/batched.py [--shape small] [--device cuda] [--batch-size 1] [--steps 5] [--precision bfloat16]

Both sides take turns; figures are medians, of the processor's seconds on a CPU and of synchronised wall time on a GPU.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from shapes import SHAPES
from step import made, seconds

from limbeck.priors.loading import pick_device
from limbeck.priors.lora_adapters import LoRAAdapters


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument(
        "--shape", default="small", help=f"one of {', '.join(SHAPES)}, or what --model takes"
    )
    arguments.add_argument("--precision", default="bfloat16")
    arguments.add_argument("--batch-size", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    device, b = pick_device(chosen.device), chosen.batch
    prior = made(chosen.shape, device, chosen.precision)
    adapters = LoRAAdapters(prior.network, prior.adapter_rows, 4, torch.Generator().manual_seed(0))
    null, pos = (prior.condition([text]) for text in ("", "a red mug"))
    asked = {
        "guidance, 2 rows": (null, pos),
        "VSD, 2 rows and 1 of its critic": (null, pos, pos.through(adapters)),
    }
    xt, t = torch.randn(b, *prior.shape, device=device), torch.full((b,), 0.5, device=device)
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in asked}
    with torch.no_grad():
        for turn in range(chosen.steps + 1):
            for name, conditions in asked.items():
                alone = (
                    [(one,) for one in conditions]
                    if len(conditions) == 2
                    else [conditions[:2], conditions[2:]]
                )
                took = (
                    seconds(lambda told=conditions: prior(xt, t, *told), device),
                    seconds(lambda parts=alone: [prior(xt, t, *told) for told in parts], device),
                )
                if turn or not chosen.steps:  # the first warms up
                    for times, one in zip(taken[name], took, strict=True):
                        times.append(one)
    print(
        f"| {chosen.shape}, {b} particle(s), {chosen.precision} | one call ms | calls apart ms | one over apart |"
    )
    print("|---|---|---|---|")
    for name, sides in taken.items():
        one, other = (statistics.median(times) for times in sides)
        print(f"| {name} | {1000 * one:.1f} | {1000 * other:.1f} | {one / other:.2f} |")


if __name__ == "__main__":
    main()
