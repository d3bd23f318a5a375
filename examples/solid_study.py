"""Text to 3D on the embedded model: 14 objects, two seeds, recipes side by side, judged from 32 cameras by the evaluator.

    python examples/solid_study.py run dreamfusion             # about two minutes each on one core
    python examples/solid_study.py run prolificdreamer --seeds 1
    limbeck eval runs/solids/dreamfusion-*                     # the table

One process per core, one thread each; finished runs are not computed again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OUT = Path("runs/solids")
PROMPTS = (
    "a red sphere", "a green cube", "a blue cone", "a yellow cylinder", "an orange torus", "a purple pyramid", "a pink mug",
    "a cyan mushroom", "a white snowman", "a green table", "a red chair", "a yellow duck", "a blue car", "an orange house",
)  # fmt: skip


def job(preset: str, prompt: str, seed: int, options: list[str]) -> Path:
    """One run of a recipe in its own folder."""
    folder = OUT / f"{preset}-{prompt.split(maxsplit=1)[1].replace(' ', '-')}-{seed}"
    command = [
        sys.executable,
        "-m",
        "limbeck",
        "run",
        prompt,
        "--preset",
        preset,
        "--seed",
        str(seed),
        "--precision",
        "bfloat16",
    ]
    with (OUT / f"{folder.name}.log").open("w") as log:
        subprocess.run(
            [*command, *options, "--out", str(folder)],
            stdout=log,
            stderr=log,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    print(folder, flush=True)
    return folder


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("what", choices=("run",))
    arguments.add_argument("preset")
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--jobs", type=int, default=0)
    chosen, options = arguments.parse_known_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(chosen.jobs or os.cpu_count() or 1) as pool:
        wait = [
            pool.submit(job, chosen.preset, prompt, seed, options)
            for seed in range(chosen.seeds)
            for prompt in PROMPTS
        ]
        for one in wait:
            one.result()


if __name__ == "__main__":
    main()
