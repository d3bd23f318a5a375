"""What became of a 3D run: its particles through 32 held-out cameras, judged by the world's evaluator and, if at hand, by CLIP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from itertools import combinations as pairs
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limbeck.config import yaml as config
from limbeck.config.discovery import component_name
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import Camera
from limbeck.metrics.clip import Clip
from limbeck.metrics.feature_diversity import feature_difference, feature_diversity
from limbeck.metrics.frechet import frechet_distance
from limbeck.metrics.heldout_views import (
    RETRIEVED,
    RINGS,
    HeldOutImages,
    held_out_cameras,
    render_held_out,
    textureless,
)
from limbeck.metrics.image_statistics import difference, diversity
from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.r_precision import combinations, distractors, r_precision, seen_scores
from limbeck.metrics.view_consistency import side_of, sided, view_figures
from limbeck.runs.reopen import experiment_in, last_stage
from limbeck.system.checkpoint import read_note, write_text
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import ATTRIBUTES, BACKGROUNDS, COLOURS, OBJECTS, VIEWS, Scenes, render

ENOUGH = 256  #: pictures from which on a Frechet distance in 160 features is told
DISTANCE = 3.6  #: of the camera in the middle of the world's own pictures


@dataclass(frozen=True)
class Opened:
    """A finished 3D run."""

    folder: Path
    experiment: Experiment
    camera: Camera  #: the 32

    @property
    def distance(self) -> float:
        return self.camera.distance[0].item()


def opened(folder: Path) -> Opened:
    """A run that can be judged, of a recipe with several stages its last; ValueError for what is none, is flat or unfinished."""
    folder = last_stage(folder)
    experiment = experiment_in(folder)
    one = experiment.camera_sampler.eval_cameras(1)
    if one is None:
        what = component_name(type(experiment.representation))
        raise ValueError(
            f"{folder} is flat: {what} have no sides to look at; its scores are in scores.json and the report"
        )
    saved = folder / "checkpoint.safetensors"
    done = read_note(saved)["step"] if saved.exists() else 0
    if done < experiment.steps:
        raise ValueError(
            f"{folder} is unfinished, {done} of {experiment.steps} steps: the command in its command.txt goes on with it"
        )
    return Opened(
        folder,
        experiment,
        held_out_cameras(one.distance[0].item(), math.degrees(one.fov[0].item())),
    )


def check_judge(run: Opened, prior: Prior, clip: Clip | None) -> None:
    """ValueError where nobody can tell whether the pictures of a run are right."""
    if clip is None and (
        prior.image_size != (64, 64)
        or not any(judgeable_attributes(prompt) for prompt in run.experiment.prompts)
    ):
        h, w = prior.image_size
        raise ValueError(
            f"{run.folder}: the evaluator judges 64 x 64 pictures of the world's objects ({', '.join(OBJECTS)}), not {h} x {w} of "
            f"{run.experiment.prompts[0]!r} by {run.experiment.model}; give CLIP weights with --clip FOLDER"
        )


@torch.no_grad()
def seen_of(run: Opened, prior: Prior) -> list[list[HeldOutImages]]:
    """Every particle through the cameras, prompt by prompt."""
    e = run.experiment
    representation, _ = load_representation(run.folder, prior)
    seen = [
        render_held_out(representation, prior, particle, run.camera) for particle in range(e.total)
    ]
    return [seen[i : i + e.particles] for i in range(0, e.total, e.particles)]


@dataclass(frozen=True)
class Judged:
    """Figures of a prompt's particles and of each alone, what the evaluator saw by camera, and features of the pictures."""

    figures: dict[str, float]
    each: list[dict[str, float]]
    verdicts: list[list[str]]
    features: Float[Tensor, "n f"]


def by_evaluator(
    prompt: str, particles: Sequence[HeldOutImages], camera: Camera, evaluator: Any
) -> Judged:
    """The world's evaluator on all particles of a prompt that names one of its objects."""
    each, verdicts, features = [], [], []
    for seen in particles:
        with torch.no_grad():
            said = evaluator(seen.images)
            features.append(evaluator.features(seen.images))
            shapes = evaluator(seen.shapes[RETRIEVED]) if seen.shapes is not None else None
        verdict = torch.stack([said[name].argmax(1) for name in ATTRIBUTES], 1)
        figures = agreement(verdict, [prompt] * len(verdict))
        figures.pop("view", None)  # the prompt's own view is not that of every camera
        if sided(judgeable_attributes(prompt)["object"]):
            figures |= view_figures(verdict, side_of(camera))
        figures["r_precision"] = r_precision(
            seen_scores({k: v[RETRIEVED] for k, v in said.items()}, prompt), 0
        )
        if shapes is not None:
            figures["r_precision_shape"] = r_precision(seen_scores(shapes, prompt, True), 0)
        each.append(figures)
        verdicts.append(_words(verdict))
    return Judged(mean(each), each, verdicts, torch.cat(features))


def _words(verdicts: Int[Tensor, "n 5"]) -> list[str]:
    """Verdicts as people say them."""
    names = [
        (*words, "nothing") if name == "object" else words for name, words in ATTRIBUTES.items()
    ]
    return [
        " ".join(known[i] for known, i in zip(names, row, strict=True)) for row in verdicts.tolist()
    ]


def apart(particles: Sequence[HeldOutImages], evaluator: Any = None) -> dict[str, float]:
    """How far apart the particles of a prompt are, always the same side of each: mean over the cameras; nothing of a single one."""
    if len(particles) < 2:
        return {}
    sides = torch.stack([seen.images for seen in particles], 1)
    figures = {"diversity": [diversity(side) for side in sides]}
    if evaluator is not None:
        figures["feature_diversity"] = [
            feature_diversity(side, evaluator.features) for side in sides
        ]
    return {
        name: sum(v for v in values if v is not None) / len(values)
        for name, values in figures.items()
    }


@dataclass(frozen=True)
class Shown:
    """Pictures of a prompt's particles through the cameras, in 8 bits, since many runs are kept at once, and their features."""

    images: UInt8[Tensor, "p c 3 h w"]
    features: Float[Tensor, "p c f"] | None = None


def across(runs: Sequence[tuple[int, Shown]]) -> dict[str, float]:
    """How far apart particles of one prompt are that runs of different seeds made: (seed, what it shows) of each.

    Always the same side of both; mean over the cameras, over pairs of particles of two seeds, and over pairs of seeds. Nothing of a
    single seed: two runs of one seed may be the same twice, and are not compared.
    """
    figures: dict[str, list[float]] = {}
    for (seed, one), (other, two) in pairs(runs, 2):
        if seed == other:
            continue
        sides = range(one.images.shape[1])
        far = [difference(one.images[:, side] / 255, two.images[:, side] / 255) for side in sides]
        figures.setdefault("diversity_seeds", []).append(sum(far) / len(sides))
        if one.features is not None and two.features is not None:
            far = [
                feature_difference(one.features[:, side], two.features[:, side]) for side in sides
            ]
            figures.setdefault("feature_diversity_seeds", []).append(sum(far) / len(sides))
    return {name: sum(values) / len(values) for name, values in figures.items()}


def by_clip(
    prompt: str, particles: Sequence[HeldOutImages], clip: Clip, others: Sequence[str]
) -> dict[str, float]:
    """True R-Precision by CLIP, in colour and of the shape; ``others`` are what the prompt is told apart from."""
    texts = [
        prompt,
        *dict.fromkeys(text for text in (*distractors(prompt), *others) if text != prompt),
    ]
    if len(texts) < 2:
        raise ValueError(
            f"CLIP R-Precision of {prompt!r} needs other texts: name a file of them with --texts, one a line"
        )
    figures = {
        "clip": r_precision(
            clip.scores(torch.cat([seen.images[RETRIEVED] for seen in particles]), texts), 0
        )
    }
    shapes = [seen.shapes[RETRIEVED] for seen in particles if seen.shapes is not None]
    return figures | (
        {"clip_shape": r_precision(clip.scores(torch.cat(shapes), texts), 0)} if shapes else {}
    )


def true_object(prompt: str, camera: Camera, seed: int = 0) -> HeldOutImages:
    """The world's own object of a prompt as its renderer draws it through cameras; what the prompt leaves open is drawn by seed,
    the pattern is plain."""
    from limbeck.world.normals import relief
    from limbeck.world.render_cache import as_images

    told, count, rng = judgeable_attributes(prompt), len(camera), np.random.default_rng(seed)
    same = lambda name, usual: np.full(count, told.get(name, usual))  # noqa: E731
    scenes = Scenes(
        object=same("object", 0), colour=same("colour", rng.integers(len(COLOURS))), pattern=same("pattern", 0),
        background=same("background", 0) if "background" in told else rng.integers(0, len(BACKGROUNDS), count),
        azimuth=camera.azimuth.numpy().astype(np.float64), elevation=camera.elevation.numpy().astype(np.float64),
        distance=np.full(count, DISTANCE), tint=np.ones(count),
    )  # fmt: skip
    near = held_out_cameras(DISTANCE, 40.0)
    alpha, normal = (
        torch.from_numpy(x) for x in relief(scenes.object, near.eye.double().numpy(), 64)
    )
    return HeldOutImages(
        as_images(render(scenes)), textureless(alpha[:, None], normal.permute(0, 3, 1, 2), near)
    )


@dataclass(frozen=True)
class Outcome:
    """A judged run, as it is compared with others.

    family: what it has in common with runs that differ in prompts and seed only. told: what eval.json says. features: of its
    pictures beside those of the true objects, prompt by prompt. shown: its pictures by prompt.
    """

    family: str
    seed: int
    told: dict[str, Any]
    features: Sequence[tuple[Tensor, Tensor]] = ()
    shown: Mapping[str, Shown] = field(default_factory=dict)


def judged_run(
    run: Opened,
    prior: Prior,
    evaluator: Any = None,
    clip: Clip | None = None,
    others: Sequence[str] = (),
) -> Outcome:
    """What becomes eval.json of a run, and what tables of several want of it.

    Under ``truth`` stand the same figures of the world's own objects: what a perfect result would get.
    """
    e, rows, both, shown = run.experiment, [], [], {}
    for prompt, particles in zip(e.prompts, seen_of(run, prior), strict=True):
        row: dict[str, Any] = {"prompt": prompt}
        images = torch.stack([(seen.images * 255).round().byte() for seen in particles])
        world = (
            evaluator is not None and bool(combinations(prompt)) and prior.image_size == (64, 64)
        )
        shown[prompt] = Shown(images)
        if world:
            told = by_evaluator(prompt, particles, run.camera, evaluator)
            row |= told.figures | {"particles": told.each, "seen": told.verdicts}
            shown[prompt] = Shown(images, told.features.unflatten(0, images.shape[:2]))
        if (
            world and find_spec("numba") is not None
        ):  # which draws the world; what it says is worth a wait, not an error
            true = by_evaluator(
                prompt,
                [true_object(prompt, run.camera, e.seed)] * len(particles),
                run.camera,
                evaluator,
            )
            row["truth"] = true.figures
            both.append((told.features, true.features))
        row |= apart(particles, evaluator if world else None)
        if clip is not None:
            row |= by_clip(prompt, particles, clip, others)
        rows.append(row)
    camera = {
        "rings": [list(ring) for ring in RINGS],
        "distance": run.distance,
        "fov": math.degrees(run.camera.fov[0].item()),
    }
    sides = [VIEWS[i] for i in side_of(run.camera).tolist()]
    out = {"step": e.steps, "cameras": camera, "sides": sides, "prompts": rows, "mean": mean(rows)}
    return Outcome(family(e), e.seed, out | frechet(both), both, shown)


def mean(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of every figure over the rows that have it."""
    names = dict.fromkeys(
        name for row in rows for name, value in row.items() if isinstance(value, float)
    )
    return {name: sum(v := [row[name] for row in rows if name in row]) / len(v) for name in names}


def frechet(features: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Frechet distance of the pictures of many prompts to true renders through the same cameras, in the evaluator's features;
    nothing with fewer than ``ENOUGH`` pictures, of which it says little."""
    if sum(len(a) for a, _ in features) < ENOUGH:
        return {}
    return {
        "frechet": frechet_distance(
            torch.cat([a for a, _ in features]), torch.cat([b for _, b in features])
        )
    }


def family(experiment: Experiment) -> str:
    """What runs have in common that differ in nothing but prompts and seed."""
    plain = replace(experiment, prompts=("prompt",), seed=0, source_prompt=())
    if any(
        option.name == "start" for option in fields(plain.representation)
    ):  # the run before, which differs with the prompt
        plain = replace(plain, representation=replace(plain.representation, init_from=None))  # type: ignore[call-arg]
    names = (type(e).__name__ for e in (experiment.method, experiment.representation))
    return f"{', '.join(names)}, {experiment.steps} steps ({config.fingerprint(plain)})"


def write(run: Opened, told: dict[str, Any]) -> Path:
    """eval.json of a run folder, in one move."""
    path = run.folder / "eval.json"
    write_text(path, json.dumps(told, indent=1) + "\n")
    return path
