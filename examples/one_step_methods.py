"""Images of the generators of a sweep, pooled over its seeds, for the table of docs/one-step.md.

    limbeck sweep examples/sweeps/one-step.yaml --seed 0:3 --out runs/one-step-methods
    python examples/one_step_methods.py runs/one-step-methods runs/one-step-images

draws, for captions of combinations that are held out from training, by the generators of every
method, by DDIM with 1, 2, 4 and 10 network calls, and by the generator before its first step:

- ``captions``: 234 captions, an image of each by the training of each seed;
- ``noises``: 42 captions, eight images of each, a third of the captions by each training.

The seed of a training is that of the noise. Then

    limbeck eval runs/one-step-images/captions/{dmd2,vsd,sds,ddim-10} \\
        --prompts runs/one-step-images/captions.json --reference world
    limbeck eval runs/one-step-images/noises/{dmd2,vsd,sds,ddim-10} \\
        --prompts runs/one-step-images/noises.json

print agreement and distances, and diversity, with differences to the first folder; name those that
are wanted. Images that are there are kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import limbeck as lb
from limbeck.evaluation.image_sets import list_images
from limbeck.world.caption_lists import spread_captions

GUIDANCE = 4.0  #: of the sampler, and of the teacher of ``--preset one-step``
SEEDS = (0, 1, 2)
#: Options of ``lb.sample`` by the name of what is compared with the generators.
SAMPLERS: Mapping[str, Mapping[str, Any]] = {
    "step-0": {"steps": 1, "guidance": 1.0},  # the pass that a generator is before training
    **{f"ddim-{steps}": {"steps": steps, "guidance": GUIDANCE} for steps in (1, 2, 4, 10)},
}


def generators(sweep: Path) -> dict[str, dict[int, Path]]:
    """Run folders of a finished sweep by method and seed."""
    found: dict[str, dict[int, Path]] = {}
    with (sweep / "results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["state"] != "finished":
                raise SystemExit(f"{row['run']} is {row['state']}: complete the sweep first")
            found.setdefault(row["method"].split(",")[0], {})[int(row["seed"])] = sweep / row["run"]
    return found


def draw(
    captions: Mapping[int, Sequence[str]], num_images: int, folder: Path, sweep: Path
) -> dict[str, str]:
    """Draw images by everything.

    Args:
        captions: captions by seed.
        num_images: images of each caption.
        folder: folder that gets a folder for each method and sampler.
        sweep: folder of the sweep.

    Returns:
        Caption of each image by its file name, the same for all folders.
    """
    names: dict[str, str] = {}
    jobs: dict[str, dict[int, dict[str, Any]]] = {
        method: {seed: {"generator": run} for seed, run in runs.items()}
        for method, runs in generators(sweep).items()
    }
    jobs |= {name: {seed: dict(options) for seed in SEEDS} for name, options in SAMPLERS.items()}
    for name, by_seed in jobs.items():
        for seed, options in by_seed.items():
            texts = [text for text in captions[seed] for _ in range(num_images)]
            files = [f"{seed}-{i:04}.png" for i in range(len(texts))]
            names.update(zip(files, texts, strict=True))
            if not all((folder / name / file).exists() for file in files):
                _draw_one(list(captions[seed]), num_images, files, folder / name, seed, options)
    return names


def _draw_one(
    captions: list[str],
    num_images: int,
    files: list[str],
    folder: Path,
    seed: int,
    options: Mapping[str, Any],
) -> None:
    """Draw the images of one seed and copy them under the names of files."""
    drawn = lb.sample(
        captions, num_images=num_images, seed=seed, precision="float32", **options
    ).folder
    folder.mkdir(parents=True, exist_ok=True)
    for image, file in zip(list_images(drawn), files, strict=True):
        shutil.copyfile(image, folder / file)
    shutil.rmtree(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument("out", type=Path, help="folder of the images")
    arguments = parser.parse_args()
    many, few = spread_captions(234, unseen=True), spread_captions(42, unseen=True)
    sets = {
        "captions": (dict.fromkeys(SEEDS, many), 1),
        "noises": ({seed: few[seed :: len(SEEDS)] for seed in SEEDS}, 8),
    }
    for name, (captions, num_images) in sets.items():
        names = draw(captions, num_images, arguments.out / name, arguments.sweep)
        text = json.dumps(dict(sorted(names.items())), indent=1)
        (arguments.out / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
