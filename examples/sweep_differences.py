"""Evaluated 3D runs of a sweep by setting, and what differs from the first setting.

    limbeck eval runs/SWEEP/*-seed-*
    python examples/sweep_differences.py runs/SWEEP object rejected

Brackets are 95 % intervals over seeds (Student's t). Differences are paired by seed, and the
prompts of a run are averaged. In bold: differences whose interval excludes zero. For metrics within
0 and 1.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from limbeck.metrics.intervals import SHARE, Interval, mean_interval

METRICS = ("object", "view_accuracy", "janus", "r_precision_shape", "rejected")
#: columns of results.csv before and after those of the options that vary
BEFORE, AFTER = ("run", "state", "prompt"), "seed"


def read_values(sweep: Path, metric: str) -> dict[str, dict[str, float]]:
    """Value by setting and seed of the runs of the last command that have an eval.json."""
    values: dict[str, dict[str, float]] = {}
    with (sweep / "results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = sweep / row["run"] / "eval.json"
            if not path.exists():
                continue
            value = json.loads(path.read_text(encoding="utf-8"))["mean"].get(metric)
            columns = list(row)[len(BEFORE) : list(row).index(AFTER)]
            setting = ", ".join(f"{row[name]}" for name in columns)
            if value is not None:
                values.setdefault(setting, {})[row[AFTER]] = value
    return values


def formatted(values: list[float], interval: Interval | None, sign: str = "") -> str:
    """Mean and interval; the mean alone of a single seed."""
    mean = sum(values) / len(values)
    if interval is None:
        return f"{mean:{sign}.2f}"
    return f"{mean:{sign}.2f} [{interval[0]:{sign}.2f}, {interval[1]:{sign}.2f}]"


def difference(first: dict[str, float], other: dict[str, float]) -> str:
    """Other minus first over the seeds of both, in bold if zero is excluded."""
    values = [other[seed] - first[seed] for seed in first if seed in other]
    if not values:
        return ""
    interval = mean_interval(values, SHARE, is_difference=True)
    text = formatted(values, interval, "+")
    excluded = interval is not None and interval[0] * interval[1] > 0
    return f"**{text}**" if excluded else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("metrics", nargs="*", help="names in eval.json")
    arguments = parser.parse_args()
    print("| metric | setting | value | minus the first | seeds |\n|---|---|---|---|---:|")
    for metric in arguments.metrics or METRICS:
        values = read_values(arguments.sweep, metric)
        first = next(iter(values.values()), {})
        for setting, by_seed in values.items():
            minus = "" if by_seed is first else difference(first, by_seed)
            own = list(by_seed.values())
            mean = formatted(own, mean_interval(own, SHARE))
            print(f"| {metric} | {setting} | {mean} | {minus} | {len(by_seed)} |")


if __name__ == "__main__":
    main()
