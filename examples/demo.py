"""The demo of ``make demo``: SDS at guidance 100 and 7.5, VSD at 7.5, and plain sampling.

Four prompts on the embedded model, the same seeds, one comparison report. The jobs run as separate
processes with one thread each, one per core.
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
COMMON = "--particles 2 --optimizer.decay-start 0.5 --timesteps two-stage"
SDS = f"run --method sds --representation.lr 0.1 --steps 600 {COMMON}"
VSD = f"run --method vsd --representation.lr 0.03 --steps 800 {COMMON}"
CRITIC = "--method.critic small-unet --method.critic.training.lr 0.003"
#: command and options by folder, the longest first
JOBS = {
    "vsd-7.5": f"{VSD} {CRITIC}",
    "sds-100": f"{SDS} --method.guidance 100",
    "sds-7.5": f"{SDS} --method.guidance 7.5",
    "sampling": "sample --guidance 5 --num-images 2",
}


def run_job(name: str) -> None:
    """Run a job in its own process, with its output in ``OUT/NAME.log``."""
    command, *options = JOBS[name].split()
    if command == "sample" and (OUT / name / "final.png").exists():
        return  # unlike runs, samples cannot be resumed
    start, log = time.monotonic(), OUT / f"{name}.log"
    argv = [sys.executable, "-m", "limbeck", command, *PROMPTS, *options, "--out", str(OUT / name)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.run(argv, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if process.returncode:
        raise SystemExit(f"{name} failed, see {log}:\n{log.read_text(encoding='utf-8')[-2000:]}")
    print(f"  {name:10s} {time.monotonic() - start:5.0f} s", flush=True)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    cores = min(len(JOBS), os.cpu_count() or 1)
    print(f"{len(JOBS)} jobs on {cores} cores, {len(PROMPTS)} prompts each; logs in {OUT}/")
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(run_job, JOBS))
    folders = [str(OUT / name) for name in ("sampling", "sds-100", "sds-7.5", "vsd-7.5")]
    report = OUT / "report.html"
    argv = [sys.executable, "-m", "limbeck", "report", *folders, "--out", str(report)]
    subprocess.run(argv, check=True)
    print(f"done in {time.monotonic() - start:.0f} s; open {report.resolve()}")


if __name__ == "__main__":
    main()
