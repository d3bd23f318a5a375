"""Images of one-step generators and of plain sampling, for the table of docs/one-step.md.

    python examples/one_step_study.py runs/one-step-0 runs/one-step-1 runs/one-step-2

draws one image for each of 234 captions of combinations that are held out from training, and eight
for each of 14 of them, by every generator and by DDIM with 1, 2, 4, 10 and 50 network calls; then

    limbeck eval runs/one-step-study/captions/* --reference world
    limbeck eval runs/one-step-study/noises/* --reference world

print agreement and distances, and diversity. Folders that are there are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import limbeck as lb
from limbeck.world.caption_lists import spread_captions

STEPS = (1, 2, 4, 10, 50)  #: network calls of the sampler; guidance makes two of each
GUIDANCE = 4.0  #: of the sampler, and of the teacher of ``--preset one-step``


def draw(prompts: list[str], num_images: int, folder: Path, runs: list[Path]) -> None:
    """Draw images by every generator and by every number of steps."""
    jobs: dict[str, dict[str, object]] = {
        f"ddim-{steps}": {"steps": steps, "guidance": GUIDANCE} for steps in STEPS
    }
    jobs |= {run.name: {"generator": run} for run in runs}
    for name, options in jobs.items():
        if not (folder / name).exists():
            lb.sample(prompts, num_images=num_images, out=folder / name, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of generators")
    parser.add_argument("--out", type=Path, default=Path("runs/one-step-study"))
    arguments = parser.parse_args()
    draw(spread_captions(234, unseen=True), 1, arguments.out / "captions", arguments.runs)
    draw(spread_captions(14, unseen=True), 8, arguments.out / "noises", arguments.runs)


if __name__ == "__main__":
    main()
