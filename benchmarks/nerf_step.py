"""Where the time of a step of a 3D run goes: the prior, rendering, encoding, the optimizer.

    python benchmarks/nerf_step.py [--steps 10] [--against PATH/src]

Steps of the preset `dreamfusion` on the embedded model, in one thread, CPU time. They are
taken at the start of the run, with every cell occupied; later at its first size, with the cells
around a trained object occupied; and so at the late size. With --against, another source
tree takes turns with this one, and the ratio of the two is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PARTS = ("method", "render", "encode", "backward", "optimizer")
PHASES = {"start": 0.0, "early": 0.2, "late": 0.9}  #: fraction of the run


def measure(steps: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step by part, per phase, with the limbeck that is imported."""
    import torch

    from limbeck.priors.loading import load
    from limbeck.training import trainer
    from limbeck.training.presets.dreamfusion import DreamFusionPreset

    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # the parts of a profile are measured by it
    experiment = DreamFusionPreset().world(("a yellow duck",))["field"]
    prior = load(experiment.model, "cpu", experiment.precision)
    run = trainer.Run(experiment, prior)
    result = {}
    for phase, progress in PHASES.items():
        if progress:
            set_ball(run)
        run.step = round(progress * experiment.steps)
        run.advance()
        run.profile.seconds.clear()
        start = time.process_time()
        for _ in range(steps):
            run.advance()
        total = time.process_time() - start
        seconds = {part: run.profile.seconds[part] for part in PARTS}
        seconds["rest"] = total - sum(seconds.values())
        result[phase] = {part: 1e3 * value / steps for part, value in seconds.items()}
    return result


def set_ball(run: object) -> None:
    """Occupy a ball around the origin: about as many cells as an object has."""
    import torch

    occupied = run.representation.field(0).occupancy.occupied  # type: ignore[attr-defined]
    line = torch.linspace(-1, 1, len(occupied))
    radius = torch.stack(torch.meshgrid(line, line, line, indexing="ij")).norm(dim=0)
    occupied.copy_(radius < 0.72)


def measure_tree(source: Path, steps: int) -> dict[str, dict[str, float]]:
    """``measure`` in another process, with the limbeck of a source tree."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--json", "--steps", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def mean(runs: list[dict[str, dict[str, float]]], phase: str, part: str) -> float:
    return sum(run[phase][part] for run in runs) / len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each source tree")
    parser.add_argument("--against", type=Path, help="source tree to compare with")
    parser.add_argument("--json", action="store_true", help="print one measurement as JSON")
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps(measure(arguments.steps)))
        return
    trees = {"this tree": Path(__file__).resolve().parents[1] / "src"}
    if arguments.against:
        trees["other tree"] = arguments.against.resolve()
    runs: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in trees}
    for _ in range(arguments.rounds):
        for name, source in trees.items():
            runs[name].append(measure_tree(source, arguments.steps))
    print("| ms of CPU time a step |", " | ".join([*PARTS, "rest", "sum"]), "| not the prior |")
    print("|---" * (len(PARTS) + 4) + "|")
    for phase in PHASES:
        sums = []
        for name, own in runs.items():
            values = [mean(own, phase, part) for part in (*PARTS, "rest")]
            sums.append(sum(values))
            share = 1 - values[0] / sums[-1]
            cells = " | ".join(f"{value:.1f}" for value in [*values, sums[-1]])
            print(f"| {name}, {phase} | {cells} | {100 * share:.0f} % |")
        if len(sums) == 2:
            print(f"| ratio, {phase} |" + " |" * (len(PARTS) + 1) + f" {sums[0] / sums[1]:.2f} | |")


if __name__ == "__main__":
    main()
