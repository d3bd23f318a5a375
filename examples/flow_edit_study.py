"""FlowEdit with several noises and with steps that sample, on pairs whose true result is known.

    python examples/flow_edit_study.py                 # table of docs/methods/flow-edit.md
    python examples/flow_edit_study.py --pairs 8 --seeds 1 --only "16"

Pairs and verdicts are those of ``limbeck bench --edits``; all else has the defaults of
``limbeck edit --method flow-edit``. Writes the sources into runs/flow-edit-study.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import limbeck as lb
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.leaderboard.edits.conduct import save_pairs
from limbeck.leaderboard.edits.judgment import judge_edits
from limbeck.leaderboard.edits.pairs import EditPairs
from limbeck.leaderboard.edits.protocol import EditLeaderboard
from limbeck.leaderboard.execution.image_results import to_bytes
from limbeck.leaderboard.report.markdown import difference_text, value_text
from limbeck.methods.flow_edit import FlowEdit
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.edit_options import EditOptions, default_options
from limbeck.runs.editing import edit_experiments
from limbeck.training.trainer import Run
from limbeck.world.pretrained import load_evaluator

OUT = Path("runs/flow-edit-study")
DEFAULT = "defaults"
METRICS = {"both": "right", "distance": "distance", "psnr_outside": "PSNR outside, dB"}


def rows() -> dict[str, EditOptions]:
    """The options of each row."""
    default = default_options(FlowEdit)

    def changed(steps: int = default.steps, **options: int) -> EditOptions:
        return replace(default, steps=steps, method=replace(default.method, **options))

    return {
        DEFAULT: default,
        "2 noises, 20 steps": changed(20, num_noises=2),
        "2 noises": changed(num_noises=2),
        "4 noises": changed(num_noises=4),
        "the last 4 steps sample": changed(sampling_steps=4),
        "the last 8 steps sample": changed(sampling_steps=8),
        "the last 16 steps sample": changed(sampling_steps=16),
        "all 40 steps sample": changed(sampling_steps=40),
    }


def edit(options: EditOptions, pairs: EditPairs, seeds: int, prior: Prior) -> tuple[Tensor, float]:
    """Edited images, those of a pair next to each other, and network passes per edit."""
    files = tuple(OUT / f"{i:03d}-source.png" for i in range(len(pairs)))
    inputs = EditInputs(files, pairs.target_prompts, pairs.source_prompts)
    by_seed, before = [], prior.call_counter.rows
    for seed in range(seeds):
        seeded = replace(options, seed=seed)
        (experiment,) = edit_experiments(inputs, seeded, prior).values()
        run = Run(experiment, prior)
        while run.step < experiment.steps:
            run.advance()
        with torch.no_grad():
            parts = [
                run.representation.images(prior, RenderRequest(particles))
                for particles in torch.arange(experiment.total).split(32)
            ]
        by_seed.append(to_bytes(torch.cat(parts).float()).float() / 255)
    passes = (prior.call_counter.rows - before) / (seeds * len(pairs))
    return torch.stack(by_seed, 1).flatten(0, 1), passes


def number(name: str, value: float) -> str:
    return {"both": f"{100 * value:z.0f} %", "distance": f"{value:z.3f}"}.get(name, f"{value:z.1f}")


def table_row(
    name: str, found: dict[str, Estimate], default: dict[str, Estimate], passes: float
) -> str:
    """A row of the table: metrics, and what they are more than those of the defaults."""
    cells: Sequence[str] = [
        value_text(found[metric], lambda x, metric=metric: number(metric, x)) for metric in METRICS
    ]
    differences = []
    for metric in METRICS if name != DEFAULT else ():
        units = zip(found[metric].by_unit, default[metric].by_unit, strict=True)
        difference = mean_estimate([a - b for a, b in units], is_difference=True)
        differences.append(difference_text(difference, lambda x, m=metric: number(m, x)))
    return f"| {' | '.join([name, *cells, *(differences or [''] * 3), f'{passes:.0f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=64, help="number of pairs")
    parser.add_argument("--seeds", type=int, default=2, help="edits of each pair")
    parser.add_argument("--only", nargs="*", help="parts of row names")
    arguments = parser.parse_args()
    evaluator, prior = load_evaluator(), lb.load("world")
    pairs, _ = EditLeaderboard(num_pairs=arguments.pairs, tuning_pairs=0).pairs(evaluator)
    save_pairs(pairs, OUT)
    head = ["", *METRICS.values(), *(f"{label} minus defaults" for label in METRICS.values())]
    print(f"| {' | '.join([*head, 'passes'])} |\n|{'---|' * (len(head) + 1)}")
    default: dict[str, Estimate] = {}
    for name, options in rows().items():
        if name != DEFAULT and not any(part in name for part in arguments.only or [""]):
            continue
        images, passes = edit(options, pairs, arguments.seeds, prior)
        found = judge_edits(pairs, images, evaluator)
        default = default or found
        print(table_row(name, found, default, passes), flush=True)


if __name__ == "__main__":
    main()
