"""Text to 3D on the embedded model: 14 objects, two seeds, one preset.

    python examples/text_to_3d_study.py dreamfusion        # about two minutes per run and core
    python examples/text_to_3d_study.py prolificdreamer --seeds 1
    limbeck eval runs/text-to-3d/dreamfusion-*             # the table

Further options are passed to ``limbeck run``. Runs are processes with one thread each, one per
core; finished runs are not computed again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OUT = Path("runs/text-to-3d")
PROMPTS = (
    "a red sphere",
    "a green cube",
    "a blue cone",
    "a yellow cylinder",
    "an orange torus",
    "a purple pyramid",
    "a pink mug",
    "a cyan mushroom",
    "a white snowman",
    "a green table",
    "a red chair",
    "a yellow duck",
    "a blue car",
    "an orange house",
)


def run_job(preset: str, prompt: str, seed: int, options: list[str]) -> None:
    """Run a preset in its own folder, with its output in a log next to it."""
    subject = prompt.split(maxsplit=1)[1].replace(" ", "-")
    folder = OUT / f"{preset}-{subject}-{seed}"
    argv = [sys.executable, "-m", "limbeck", "run", prompt, "--preset", preset]
    argv += ["--seed", str(seed), *options, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (OUT / f"{folder.name}.log").open("w", encoding="utf-8") as log:
        subprocess.run(argv, stdout=log, stderr=log, check=True, env=environment)
    print(folder, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds per object")
    parser.add_argument("--objects", type=int, default=len(PROMPTS), help="number of objects")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    arguments, options = parser.parse_known_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [
            pool.submit(run_job, arguments.preset, prompt, seed, options)
            for seed in range(arguments.seeds)
            for prompt in PROMPTS[: arguments.objects]
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
