"""Evaluation of finished 3D runs from 32 held-out cameras, by the world's evaluator and CLIP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from limbeck.config.comparison import fingerprint
from limbeck.config.discovery import component_name
from limbeck.diffusion.prior import Prior
from limbeck.evaluation.prompt_metrics import (
    PromptFeatures,
    PromptImages,
    clip_metrics,
    clip_texts,
    evaluate_prompt,
    frechet_metric,
    mean_metrics,
    particle_diversity,
    render_true_object,
    score_metrics,
)
from limbeck.evaluation.run_intervals import run_intervals
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.export.png import check_image_values
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.heldout_views import (
    CAMERA_RINGS,
    HeldOutImages,
    held_out_cameras,
    render_held_out,
)
from limbeck.metrics.image_scores.base import ImageScore, bounds_of
from limbeck.metrics.r_precision import candidate_objects, distractor_prompts
from limbeck.metrics.true_object_colors import true_object_colors
from limbeck.metrics.view_consistency import view_labels
from limbeck.runs.folder_state import refuse_unfinished
from limbeck.runs.reopen import last_stage, read_experiment
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import OBJECTS, VIEWS

_SECOND_DRAW = 10_007  #: added to the seed of true objects for the floor of a distance


@dataclass(frozen=True)
class FinishedRun:
    """A finished 3D run.

    Attributes:
        folder: run folder.
        experiment: options of the run.
        cameras: the 32 held-out cameras, at the distance and field of view of its eval camera.
    """

    folder: Path
    experiment: Experiment
    cameras: Camera


def open_finished_run(folder: Path) -> FinishedRun:
    """Open a run that can be evaluated; of a preset with several stages the last one.

    Raises:
        ValueError: if the folder is no run, or if the run is 2D or unfinished.
    """
    folder = last_stage(folder)
    experiment = read_experiment(folder)
    camera = experiment.camera_sampler.eval_cameras(1)
    if camera is None:
        name = component_name(type(experiment.representation))
        raise ValueError(
            f"{folder}: {name} are 2D and have no views to evaluate; the scores of the run are in "
            "its scores.json and report"
        )
    refuse_unfinished(folder, experiment)
    fov = math.degrees(camera.fov[0].item())
    return FinishedRun(folder, experiment, held_out_cameras(camera.distance[0].item(), fov))


@dataclass(frozen=True)
class RunJudges:
    """The networks that judge renders.

    Attributes:
        evaluator: the world's evaluator; None: without it.
        clip: CLIP; None: without CLIP score and CLIP R-Precision.
        scores: scores of single images.
        prompts: prompts that CLIP compares each prompt with, besides the world's other objects.
        texts: if there are any, CLIP compares each prompt with these instead.
    """

    evaluator: Any = None
    clip: CLIPSimilarity | None = None
    scores: tuple[ImageScore, ...] = ()
    prompts: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def distractors(self, prompt: str) -> Sequence[str]:
        """What CLIP compares a prompt with."""
        return self.texts or (*distractor_prompts(prompt), *self.prompts)


def check_evaluable(run: FinishedRun, prior: Prior, judges: RunJudges) -> None:
    """Check that a network can judge the images of a run, and that CLIP has texts to compare with.

    Args:
        run: the run.
        prior: its model.
        judges: the networks.

    Raises:
        ValueError: if none can, or it has not.
    """
    e, (height, width) = run.experiment, prior.image_size
    by_evaluator = (height, width) == (64, 64) and any(judgeable_attributes(p) for p in e.prompts)
    if judges.clip is None and not judges.scores and not by_evaluator:
        raise ValueError(
            f"{run.folder}: the evaluator judges 64 x 64 images of the world's objects "
            f"({', '.join(OBJECTS)}), not {height} x {width} of {e.prompts[0]!r} by {e.model}; "
            "give CLIP weights with --clip FOLDER"
        )
    if judges.clip is not None:
        for prompt in e.prompts:
            clip_texts(prompt, judges.distractors(prompt))


@dataclass(frozen=True)
class RunEvaluation:
    """Evaluation of a run.

    Attributes:
        family: what the run has in common with those that differ only in prompts and seed.
        seed: seed of the run.
        report: content of eval.json.
        features: features of the particles, of the true objects, and of a second draw of these, by
            prompt.
        images: images by prompt.
    """

    family: str
    seed: int
    report: dict[str, Any]
    features: Sequence[PromptFeatures] = ()
    images: Mapping[str, PromptImages] = field(default_factory=dict)


def evaluate_run(run: FinishedRun, prior: Prior, judges: RunJudges) -> RunEvaluation:
    """Evaluate a run.

    In eval.json, ``reference`` has the same metrics measured on renders of the true object that a
    prompt describes: what a perfect result would reach.

    Args:
        run: the run.
        prior: its model.
        judges: the networks.
    """
    e = run.experiment
    rows, features, images = [], [], {}
    for prompt, particles in _render_prompts(run, prior).items():
        in_world = bool(candidate_objects(prompt)) and prior.image_size == (64, 64)
        judge = judges.evaluator if in_world else None
        row: dict[str, Any] = {"prompt": prompt}
        for particle in particles:
            check_image_values(particle.images)
        pixels = torch.stack([(p.images * 255).round().byte() for p in particles])
        images[prompt] = PromptImages(pixels)
        if judge is not None:
            # numba renders the world: its absence costs the reference, not the evaluation
            has_renders = find_spec("numba") is not None
            colors = true_object_colors(prompt) if has_renders else None
            found = evaluate_prompt(prompt, particles, run.cameras, judge, colors)
            row |= found.metrics | {"particles": found.particles, "verdicts": found.verdicts}
            images[prompt] = PromptImages(pixels, found.features.unflatten(0, pixels.shape[:2]))
            if has_renders:
                true_object = render_true_object(prompt, run.cameras, e.seed)
                true_objects = [true_object] * len(particles)
                reference = evaluate_prompt(prompt, true_objects, run.cameras, judge, colors)
                row["reference"] = reference.metrics
                second = render_true_object(prompt, run.cameras, e.seed + _SECOND_DRAW).images
                floor = judge.features(second).detach().repeat(len(particles), 1)
                own = PromptFeatures(prompt, found.features, reference.features, floor)
                features.append(own)
        row |= particle_diversity(particles, judge)
        by_network = _judge_particles(prompt, particles, judges)
        if by_network[0]:
            own = row.get("particles", [{} for _ in particles])
            row |= mean_metrics(by_network)
            row["particles"] = [a | b for a, b in zip(own, by_network, strict=True)]
        rows.append(row)
    report = _report(run, rows, judges) | frechet_metric(features)
    return RunEvaluation(run_family(e), e.seed, report, features, images)


def _report(run: FinishedRun, rows: Sequence[dict[str, Any]], judges: RunJudges) -> dict[str, Any]:
    """Content of eval.json, but for the Frechet distance, from the metrics of each prompt."""
    bounds = bounds_of(judges.scores)
    intervals, unit = run_intervals(rows, bounds)
    return {
        "step": run.experiment.steps,
        "cameras": {
            "rings": [list(ring) for ring in CAMERA_RINGS],
            "distance": run.cameras.distance[0].item(),
            "fov": math.degrees(run.cameras.fov[0].item()),
        },
        "views": [VIEWS[i] for i in view_labels(run.cameras).tolist()],
        "prompts": rows,
        "mean": mean_metrics(rows),
        "intervals": intervals,
        "interval_over": unit,
        **({"bounds": dict(bounds)} if bounds else {}),
    }


def _judge_particles(
    prompt: str, particles: Sequence[HeldOutImages], judges: RunJudges
) -> list[dict[str, float]]:
    """Metrics of each particle by CLIP and scores of images; all have as many views."""
    rows = []
    for particle in particles:
        row = score_metrics(prompt, [particle], judges.scores)
        if judges.clip is not None:
            others = judges.distractors(prompt)
            row = clip_metrics(prompt, [particle], judges.clip, others) | row
        rows.append(row)
    return rows


@torch.no_grad()
def _render_prompts(run: FinishedRun, prior: Prior) -> dict[str, list[HeldOutImages]]:
    """Every particle through the cameras, by prompt; those of a prompt given twice are together."""
    e = run.experiment
    representation, _ = load_representation(run.folder, prior)
    particles: dict[str, list[HeldOutImages]] = {}
    for i in range(e.total):
        images = render_held_out(representation, prior, i, run.cameras)
        particles.setdefault(e.prompts[i // e.particles], []).append(images)
    return particles


def without_prompts(experiment: Experiment) -> Experiment:
    """Return an experiment that is equal for runs that differ only in prompts and seed."""
    plain = replace(experiment, prompts=("prompt",), seed=0, source_prompt=())
    representation = plain.representation
    if any(option.name == "init_from" for option in fields(representation)):
        # the run before differs with the prompt
        representation = replace(representation, init_from=None)  # type: ignore[call-arg]
        plain = replace(plain, representation=representation)
    return plain


def run_family(experiment: Experiment) -> str:
    """Return a text that is the same for runs that differ only in prompts and seed."""
    names = (type(part).__name__ for part in (experiment.method, experiment.representation))
    plain = without_prompts(experiment)
    return f"{', '.join(names)}, {experiment.steps} steps ({fingerprint(plain)})"
