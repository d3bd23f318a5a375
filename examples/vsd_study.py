"""VSD against SDS and plain sampling on the embedded model: 32 prompts, 4 seeds each, judged by the evaluator.

    python examples/vsd_study.py search     # critic and particle rates, 3 prompts
    python examples/vsd_study.py main       # the table: VSD for --steps, SDS, which needs fewer, for half of them

One process per core, one thread each; finished runs are not computed again. Prints one table row per run.
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

from limbeck.world.scene import BACKGROUNDS, COLOURS, OBJECTS, PATTERNS, caption, random_scenes

OUT = Path("runs/vsd-study")
SCORES = ("object", "colour", "pattern", "background", "saturation", "variation", "diversity")


def prompts(count: int) -> list[str]:
    """Held-out combinations, all words said, objects in turn."""
    scenes = random_scenes(400, np.random.default_rng(99), unseen=True)
    rows = [
        int(np.flatnonzero(scenes.object == i % len(OBJECTS))[i // len(OBJECTS)])
        for i in range(count)
    ]
    return [
        caption(OBJECTS[o], COLOURS[c], PATTERNS[p], BACKGROUNDS[b])
        for o, c, p, b, _ in scenes.labels()[rows]
    ]


def job(name: str, words: list[str], options: list[str]) -> Path:
    """One process: ``limbeck VERB prompts options`` into its own folder."""
    folder = OUT / name
    if not (folder / "scores.json").exists():
        verb, *rest = options
        command = [
            sys.executable,
            "-m",
            "limbeck",
            verb,
            *words,
            *rest,
            "--precision",
            "bfloat16",
            "--out",
            str(folder),
        ]
        with (OUT / f"{name}.log").open("w") as log:
            subprocess.run(
                command,
                stdout=log,
                stderr=log,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
    return folder


def row(name: str, folders: list[Path]) -> str:
    """Means over the runs' prompts."""
    kept = [json.loads((folder / "scores.json").read_text())["mean"] for folder in folders]
    cells = [sum(one.get(key, float("nan")) for one in kept) / len(kept) for key in SCORES]
    return f"{name:34s}" + "".join(f"{cell:12.3f}" for cell in cells)


def vsd(rate: float, critic: float, steps: int, kind: str = "smallunet") -> list[str]:
    learning = ["--method.critic", kind, "--method.critic.learning.rate", str(critic)]
    return [
        "run",
        "--method",
        "vsd",
        *learning,
        "--representation.rate",
        str(rate),
        "--steps",
        str(steps),
        *COMMON,
    ]


def sds(rate: float, steps: int) -> list[str]:
    method = ["run", "--method", "sds", "--method.guidance", "7.5"]
    return [*method, "--representation.rate", str(rate), "--steps", str(steps), *COMMON]


GROUPS = 8  #: runs of four prompts each, every VSD run with a critic of its own
COMMON = [
    "--particles",
    "4",
    "--optimizer.fall",
    "0.5",
    "--timesteps",
    "two-stage",
    "--every",
    "1000000",
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("what", choices=("search", "main"))
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--jobs", type=int, default=0)
    arguments.add_argument("--rate", type=float, default=0.03)
    arguments.add_argument("--critic", default="smallunet")
    arguments.add_argument("--critic-rate", type=float, default=3e-3)
    chosen = arguments.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"{'':34s}" + "".join(f"{key:>12s}" for key in SCORES), flush=True)
    with ThreadPoolExecutor(chosen.jobs or os.cpu_count() or 1) as pool:
        if chosen.what == "search":
            few = prompts(3)
            grid = [(rate, critic) for rate in (0.03, 0.1) for critic in (1e-3, 3e-3)]
            names = [f"search-{rate}-{critic}-{chosen.steps}" for rate, critic in grid]
            wait = [
                pool.submit(job, n, few, vsd(*pair, chosen.steps, chosen.critic))
                for n, pair in zip(names, grid, strict=True)
            ]
            for name, one in zip(names, wait, strict=True):
                print(row(name, [one.result()]), flush=True)
            return
        jobs = {
            f"vsd-{chosen.critic}-{chosen.rate}-{chosen.critic_rate}-{chosen.steps}": vsd(
                chosen.rate, chosen.critic_rate, chosen.steps, chosen.critic
            ),
            "sds-0.1-350": sds(0.1, 350),
            "sampling": ["sample", "--guidance", "7.5", "--count", "4"],
        }
        groups = [prompts(32)[k::GROUPS] for k in range(GROUPS)]
        wait2 = {
            name: [
                pool.submit(job, f"{name}-{k}", group, options) for k, group in enumerate(groups)
            ]
            for name, options in jobs.items()
        }
        for name, each in wait2.items():
            print(row(name, [one.result() for one in each]), flush=True)


if __name__ == "__main__":
    main()
