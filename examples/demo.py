"""The demonstration behind ``make demo``: SDS at guidance 100 and 7.5, VSD at 7.5 and plain sampling on the embedded model.

Four prompts, the same seeds, one comparison report. The jobs run as separate processes, one per core, one thread each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OUT = Path("runs/demo")
PROMPTS = (
    "a striped red mug",
    "a yellow duck on grass",
    "a purple mushroom in the snow",
    "a blue car on sand",
)
COMMON = (
    "--particles",
    "2",
    "--precision",
    "bfloat16",
    "--optimizer.fall",
    "0.5",
    "--timesteps",
    "two-stage",
)
CRITIC = ("--method.critic", "small-unet", "--method.critic.learning.rate", "0.003")
JOBS = {
    "vsd-7.5": (
        "run",
        "--method",
        "vsd",
        *CRITIC,
        "--representation.rate",
        "0.03",
        "--steps",
        "800",
        *COMMON,
    ),
    "sds-100": (
        "run",
        "--method",
        "sds",
        "--method.guidance",
        "100",
        "--representation.rate",
        "0.1",
        "--steps",
        "600",
        *COMMON,
    ),
    "sds-7.5": (
        "run",
        "--method",
        "sds",
        "--method.guidance",
        "7.5",
        "--representation.rate",
        "0.1",
        "--steps",
        "600",
        *COMMON,
    ),
    "sampling": ("sample", "--guidance", "5", "--count", "2", "--precision", "bfloat16"),
}


def work(name: str) -> None:
    """One job in a process of its own; its output goes to a log beside its folder."""
    verb, *options = JOBS[name]
    if verb == "sample" and (OUT / name / "final.png").exists():
        return  # a run goes on or says that it is done; samples are never overwritten
    start = time.monotonic()
    log = OUT / f"{name}.log"
    command = [sys.executable, "-m", "limbeck", verb, *PROMPTS, *options, "--out", str(OUT / name)]
    with log.open("w") as file:
        done = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        raise SystemExit(f"{name} failed, see {log}:\n{log.read_text()[-2000:]}")
    print(f"  {name:10s} {time.monotonic() - start:5.0f} s", flush=True)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    cores = min(len(JOBS), os.cpu_count() or 1)
    print(
        f"{len(JOBS)} jobs on {cores} cores, {len(PROMPTS)} prompts each; logs in {OUT}/",
        flush=True,
    )
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, JOBS))
    order = ("sampling", "sds-100", "sds-7.5", "vsd-7.5")
    report = OUT / "report.html"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "limbeck",
            "report",
            *(str(OUT / n) for n in order),
            "--out",
            str(report),
        ],
        check=True,
    )
    print(f"done in {time.monotonic() - start:.0f} s; open {report.resolve()}")


if __name__ == "__main__":
    main()
