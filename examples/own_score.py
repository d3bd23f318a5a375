"""A score of your own over the runs of a sweep, and what differs from the first setting.

    limbeck sweep "a red mug" "a yellow duck" --method sds csd --seed 0:4 --out runs/two
    python examples/own_score.py runs/two

Replace ``score``. Differences are paired by prompt and seed. Brackets are 95 % intervals over the
prompts if there are more of them than seeds, else over the seeds. In bold: differences whose
interval excludes zero.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from limbeck.metrics.intervals import POSITIVE, mean_interval

BOUNDS = POSITIVE  #: smallest and largest possible score
#: columns of results.csv before and after those of the options that vary
BEFORE, AFTER = ("run", "state", "prompt"), "seed"

Scores = dict[tuple[str, str], float]  #: by prompt and seed


def score(image: np.ndarray) -> float:
    """Contrast: standard deviation of the gray values.

    Args:
        image: ``[h, w, 3]``, values in [0, 1].
    """
    return float(image.mean(2).std())


def score_of_prompt(run: Path, prompt: str) -> float:
    """Mean score of the final images of a prompt, which are named PROMPT-PARTICLE.png."""
    prompts = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["prompts"]
    paths = sorted((run / "final").glob(f"{prompts.index(prompt):02d}-*.png"))
    images = [np.asarray(Image.open(path).convert("RGB")) / 255 for path in paths]
    return float(np.mean([score(image) for image in images]))


def read_scores(sweep: Path) -> dict[str, Scores]:
    """Scores of the finished runs of the last command, by setting."""
    scores: dict[str, Scores] = {}
    with (sweep / "results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if AFTER not in row:
                raise SystemExit(
                    f"{file.name} has one seed: give the sweep two or more, --seed 0:4"
                )
            if row["state"] != "finished":
                continue
            names = list(row)[len(BEFORE) : list(row).index(AFTER)]
            setting = ", ".join(row[name] for name in names)
            value = score_of_prompt(sweep / row["run"], row["prompt"])
            scores.setdefault(setting, {})[row["prompt"], row[AFTER]] = value
    return scores


def by_unit(scores: Mapping[tuple[str, str], float]) -> list[float]:
    """Means by prompt if there are more prompts than seeds, else by seed."""
    prompts, seeds = ({key[place] for key in scores} for place in (0, 1))
    place, units = (0, prompts) if len(prompts) > len(seeds) else (1, seeds)
    own = [[value for key, value in scores.items() if key[place] == unit] for unit in units]
    return [float(np.mean(values)) for values in own]


def text(values: Sequence[float], is_difference: bool = False) -> str:
    """Mean and interval; differences that exclude zero in bold."""
    sign, ends = "+" if is_difference else "", None
    if len(values) > 1:
        ends = mean_interval(values, BOUNDS, is_difference)
    if ends is None:
        return f"{np.mean(values):{sign}.3f}"
    out = f"{np.mean(values):{sign}.3f} [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"
    return f"**{out}**" if is_difference and ends[0] * ends[1] > 0 else out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    scores = read_scores(parser.parse_args().sweep)
    first = next(iter(scores.values()), {})
    print("| setting | score | minus the first |\n|---|---|---|")
    for setting, own in scores.items():
        minus = {key: own[key] - first[key] for key in own if key in first}
        difference = text(by_unit(minus), is_difference=True) if minus and own is not first else ""
        print(f"| {setting} | {text(by_unit(own))} | {difference} |")


if __name__ == "__main__":
    main()
