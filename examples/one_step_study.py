"""Images of one-step generators and of plain sampling, for the tables of docs/one-step.md.

    python examples/one_step_study.py runs/images "dmd2=runs/sweep/*dmd2*" "vsd=runs/sweep/*vsd*"

draws, for captions of combinations that are held out from training, by the generators of every
NAME=PATTERN, by DDIM with 1, 2, 4 and 10 network calls (``--ddim``), and by the generator before
its first step:

- ``captions``: 234 captions, an image of each by every training of a name;
- ``noises``: 42 captions, eight images of each, the captions shared out among the trainings.

The trainings of a name are the run folders that fit its pattern, in the order of their seeds; all
names have equally many, and the first training has the same noise for all names. ``--repeats 3``
draws from each training with three noises, as if it were three. Then

    limbeck eval runs/images/captions/{dmd2,vsd,ddim-10} \\
        --prompts runs/images/captions.json --reference world
    limbeck eval runs/images/noises/{dmd2,vsd,ddim-10} \\
        --prompts runs/images/noises.json

print agreement and distances, and diversity, with differences to the first folder; name those that
are wanted. Images that are there are kept.
"""

from __future__ import annotations

import argparse
import glob
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import limbeck as lb
from limbeck.evaluation.image_sets import list_images
from limbeck.world.caption_lists import spread_captions

GUIDANCE = 4.0  #: of the sampler, and of the teacher of ``--preset one-step``


def samplers(ddim_steps: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Options of ``lb.sample``, by the name of what is compared with the generators."""
    ddim = {f"ddim-{steps}": {"steps": steps, "guidance": GUIDANCE} for steps in ddim_steps}
    # the pass that a generator is before training
    return {"step-0": {"steps": 1, "guidance": 1.0}, **ddim}


def trainings(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """Run folders of each NAME=PATTERN, in the order of their seeds."""
    found: dict[str, list[Path]] = {}
    for argument in arguments:
        name, _, pattern = argument.partition("=")
        runs = {Path(path).parent.resolve() for path in glob.glob(f"{pattern}/run.yaml")}
        if not runs:
            raise SystemExit(f"{argument}: no run folder fits; give NAME=PATTERN")
        found[name] = sorted(runs, key=_seed_of)
    counts = {name: len(runs) for name, runs in found.items()}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"names have different numbers of trainings: {counts}")
    return found


def _seed_of(run: Path) -> int:
    return int(yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["seed"])


def draw(
    captions: Sequence[Sequence[str]],
    num_images: int,
    folder: Path,
    jobs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, str]:
    """Draw images by everything.

    Args:
        captions: captions of every training.
        num_images: images of each caption.
        folder: folder that gets a folder for each name.
        jobs: options of ``lb.sample`` by name, for each training.

    Returns:
        Caption of each image by its file name, the same for all folders.
    """
    names: dict[str, str] = {}
    for name, by_seed in jobs.items():
        for seed, options in enumerate(by_seed):
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
    """Draw the images of one training and copy them under the names of files."""
    drawn = lb.sample(
        captions, num_images=num_images, seed=seed, precision="float32", **options
    ).folder
    folder.mkdir(parents=True, exist_ok=True)
    for image, file in zip(list_images(drawn), files, strict=True):
        shutil.copyfile(image, folder / file)
    shutil.rmtree(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the images")
    parser.add_argument("generators", nargs="+", metavar="NAME=PATTERN", help="run folders")
    parser.add_argument("--ddim", nargs="+", type=int, default=(1, 2, 4, 10), help="DDIM steps")
    parser.add_argument("--repeats", type=int, default=1, help="noises of each training")
    arguments = parser.parse_args()
    found = trainings(arguments.generators)
    generators = {name: runs * arguments.repeats for name, runs in found.items()}
    count = len(next(iter(generators.values())))
    jobs = {name: [{"generator": run} for run in runs] for name, runs in generators.items()}
    jobs |= {name: [options] * count for name, options in samplers(arguments.ddim).items()}
    many, few = spread_captions(234, unseen=True), spread_captions(42, unseen=True)
    sets = {
        "captions": ([many] * count, 1),
        "noises": ([few[i::count] for i in range(count)], 8),
    }
    for name, (captions, num_images) in sets.items():
        names = draw(captions, num_images, arguments.out / name, jobs)
        text = json.dumps(dict(sorted(names.items())), indent=1)
        (arguments.out / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
