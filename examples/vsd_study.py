"""VSD, SDS and plain sampling on the embedded model: 32 prompts, 4 particles each.

    python examples/vsd_study.py search    # learning rates of critic and particles, 3 prompts
    python examples/vsd_study.py main      # the table: VSD with --steps steps, SDS with 350

Jobs are processes with one thread each, one per core; finished ones are not computed again.
Prints one table row per setting, with scores by the evaluator.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from limbeck.world.scene import BACKGROUNDS, COLORS, OBJECTS, PATTERNS, caption, random_scenes

OUT = Path("runs/vsd-study")
SCORES = ("object", "color", "pattern", "background", "saturation", "total_variation", "diversity")
GROUPS = 8  #: runs of 32 / GROUPS prompts each; every VSD run trains its own critic
COMMON = "--particles 4 --optimizer.decay-start 0.5 --timesteps two-stage --image-every 1000000"


def held_out_prompts(count: int) -> list[str]:
    """Captions of held-out combinations with all attributes, cycling through the objects."""
    scenes = random_scenes(400, np.random.default_rng(99), unseen=True)
    rows = [
        int(np.flatnonzero(scenes.object == i % len(OBJECTS))[i // len(OBJECTS)])
        for i in range(count)
    ]
    return [
        caption(OBJECTS[o], COLORS[c], PATTERNS[p], BACKGROUNDS[b])
        for o, c, p, b, _ in scenes.labels()[rows]
    ]


def vsd_options(lr: float, critic: str, critic_lr: float, steps: int) -> str:
    """Command of a VSD run."""
    training = f"--method.critic {critic} --method.critic.training.lr {critic_lr}"
    return f"run --method vsd {training} --representation.lr {lr} --steps {steps} {COMMON}"


def sds_options(lr: float, steps: int) -> str:
    """Command of an SDS run."""
    method = "--method sds --method.guidance 7.5"
    return f"run {method} --representation.lr {lr} --steps {steps} {COMMON}"


def run_job(name: str, prompts: list[str], options: str) -> Path:
    """Run a command in its own process and folder, unless it is finished."""
    folder = OUT / name
    if (folder / "scores.json").exists():
        return folder
    command, *rest = options.split()
    argv = [sys.executable, "-m", "limbeck", command, *prompts, *rest]
    argv += ["--precision", "bfloat16", "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (OUT / f"{name}.log").open("w", encoding="utf-8") as log:
        subprocess.run(argv, stdout=log, stderr=log, check=True, env=environment)
    return folder


def table_row(name: str, folders: list[Path]) -> str:
    """Mean scores over runs."""
    means = [
        json.loads((folder / "scores.json").read_text(encoding="utf-8"))["mean"]
        for folder in folders
    ]
    cells = [sum(mean.get(key, float("nan")) for mean in means) / len(means) for key in SCORES]
    return f"{name:34s}" + "".join(f"{cell:16.3f}" for cell in cells)


def search(pool: ThreadPoolExecutor, arguments: argparse.Namespace) -> None:
    """Print one row per pair of learning rates."""
    prompts, jobs = held_out_prompts(3), {}
    for lr in (0.03, 0.1):
        for critic_lr in (1e-3, 3e-3):
            name = f"search-{lr}-{critic_lr}-{arguments.steps}"
            options = vsd_options(lr, arguments.critic, critic_lr, arguments.steps)
            jobs[name] = pool.submit(run_job, name, prompts, options)
    for name, job in jobs.items():
        print(table_row(name, [job.result()]), flush=True)


def compare(pool: ThreadPoolExecutor, arguments: argparse.Namespace) -> None:
    """Print one row per method."""
    lr, critic, critic_lr = arguments.lr, arguments.critic, arguments.critic_lr
    commands = {
        f"vsd-{critic}-{lr}-{critic_lr}-{arguments.steps}": vsd_options(
            lr, critic, critic_lr, arguments.steps
        ),
        "sds-0.1-350": sds_options(0.1, 350),
        "sampling": "sample --guidance 7.5 --num-images 4",
    }
    prompts = held_out_prompts(32)
    groups = [prompts[k::GROUPS] for k in range(GROUPS)]
    jobs = {
        name: [pool.submit(run_job, f"{name}-{k}", group, c) for k, group in enumerate(groups)]
        for name, c in commands.items()
    }
    for name, parts in jobs.items():
        print(table_row(name, [job.result() for job in parts]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("search", "main"))
    parser.add_argument("--steps", type=int, default=500, help="steps of VSD")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--lr", type=float, default=0.03, help="learning rate of VSD's particles")
    parser.add_argument("--critic", default="small-unet")
    parser.add_argument("--critic-lr", type=float, default=3e-3)
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"{'':34s}" + "".join(f"{name:>16s}" for name in SCORES), flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        (search if arguments.what == "search" else compare)(pool, arguments)


if __name__ == "__main__":
    main()
