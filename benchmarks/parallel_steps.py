"""Rounds per step of ParallelSteps by threshold, and what it does to the result of SDS.

    python benchmarks/parallel_steps.py [--window 8] [--seeds 2] [--model world]

Every row is compared with the run of the same seed that takes one step after another: by the root
mean square of the difference of all particles and, on the embedded model, by the share of images
that the evaluator finds right, paired by prompt. The first row is another seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from limbeck import Experiment, ParallelSteps, Run, load
from limbeck.diffusion.prior import Prior
from limbeck.methods.sds import SDS
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.prompt_agreement import agreement
from limbeck.training.model_defaults import default_experiment
from limbeck.training.particle_images import particle_images
from limbeck.world.pretrained import load_evaluator
from limbeck.world.scene import full_captions, random_scenes

#: threshold and its decay; 1: it stays
SETTINGS = ((0.0, 1.0), (1e-4, 1.0), (1e-3, 1.0), (1e-2, 1.0), (1e-3, 0.9))


def experiment(model: str, seed: int) -> Experiment:
    """Return SDS at guidance 7.5 on held-out captions, or at 100 on the exact prior's prompts."""
    prompts: tuple[str, ...] = ("a red disc", "a blue ring", "a green disc", "a yellow ring")
    steps = 200
    if model == "world":
        scenes = random_scenes(60, np.random.default_rng(311), unseen=True)
        prompts, steps = tuple(dict.fromkeys(full_captions(scenes)))[:16], 100
    method = SDS(7.5 if model == "world" else 100.0)
    return replace(
        default_experiment(prompts, {"model": model}),
        method=method,
        model=model,
        steps=steps,
        seed=seed,
    )


def particles(run: Run) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.representation.parameters()])


def right(run: Run) -> list[float]:
    """Whether the object of each image is that of its prompt."""
    with torch.no_grad():
        verdicts = load_evaluator().judge(particle_images(run, run.eval_request(1)))
    texts = run.experiment.prompts
    return [agreement(verdicts[i : i + 1], [text])["object"] for i, text in enumerate(texts)]


def sequential(model: str, prior: Prior, seed: int) -> Run:
    run = Run(experiment(model, seed), prior)
    while run.step < run.experiment.steps:
        run.advance()
    return run


def distance(run: Run, other: Run) -> float:
    return float((particles(run) - particles(other)).square().mean().sqrt())


def formatted(estimate: Estimate) -> str:
    low, high = estimate.interval or (0.0, 0.0)
    return f"{estimate.value:.3f} [{low:.3f}, {high:.3f}]"


def by_prompt(values: Sequence[Sequence[float]]) -> list[float]:
    """The mean over seeds of each prompt."""
    return [fmean(seeds) for seeds in zip(*values, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", choices=("world", "gaussians"), default="world")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior, seeds, is_world = load(options.model), range(options.seeds), options.model == "world"
    references = [sequential(options.model, prior, seed) for seed in seeds]
    truth = [right(run) for run in references] if is_world else []
    others = [distance(references[i], references[i - 1]) for i in seeds]
    print("| threshold | decay | rounds per step | gradients per step | distance | object |")
    print("|---|---|---|---|---|---|")
    shares = formatted(mean_estimate(by_prompt(truth), (0, 1))) if truth else ""
    print(f"| one after another, another seed | | 1 | 1 | {fmean(others):.4f} | {shares} |")
    for threshold, decay in SETTINGS if not is_world else SETTINGS[1:]:
        runs, rounds, gradients = [], [], []
        for seed in seeds:
            run = Run(experiment(options.model, seed), prior)
            rule = ParallelSteps(run, options.window, threshold, decay)
            while run.step < run.experiment.steps:
                rule.advance()
            runs.append(run)
            rounds.append(rule.rounds / run.step)
            gradients.append(rule.gradients / run.step)
        errors = [distance(run, other) for run, other in zip(runs, references, strict=True)]
        change = ""
        if truth:
            pairs = zip(by_prompt([right(run) for run in runs]), by_prompt(truth), strict=True)
            differences = [a - b for a, b in pairs]
            change = formatted(mean_estimate(differences, (0, 1), is_difference=True))
        costs = f"{fmean(rounds):.3f} | {fmean(gradients):.2f}"
        print(f"| {threshold} | {decay} | {costs} | {fmean(errors):.4f} | {change} |", flush=True)


if __name__ == "__main__":
    main()
