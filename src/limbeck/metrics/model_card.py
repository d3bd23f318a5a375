"""Evaluation of a world model: agreement with prompts and Fréchet distance to true renders."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import sample_x0
from limbeck.metrics.frechet import frechet_distance
from limbeck.system.files import write_text
from limbeck.world.denoiser import save_grid
from limbeck.world.evaluator import REJECT, Evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import (
    ATTRIBUTES,
    OBJECTS,
    Scenes,
    full_captions,
    random_scenes,
    render_scenes,
)

_BATCH_SIZE = 28  #: whole groups of four views
_GRID_SIZE, _GRID_COLUMNS = 56, 14


@dataclass(frozen=True)
class ModelCard:
    """Metrics of a model, on samples for held-out scenes. Shares are in [0, 1].

    Attributes:
        count: number of samples.
        agreement: share of samples whose attribute is that of the prompt, by attribute; ``view``
            over the objects whose views differ.
        by_object: share of samples whose object is that of the prompt, by object.
        rejected: share of samples in which the evaluator sees none of its objects.
        frechet: Fréchet distance of the samples to as many renders of the same scenes, in the
            evaluator's features.
        frechet_renders: the same between two sets of renders, the floor for that many images.
    """

    count: int
    agreement: dict[str, float]
    by_object: dict[str, float]
    rejected: float
    frechet: float
    frechet_renders: float


def sample_held_out_captions(
    prior: Prior, count: int, steps: int, guidance: float, seed: int, seconds: float = math.inf
) -> tuple[Scenes, Float[Tensor, "n 3 h w"]]:
    """Draw held-out scenes and one sample for the full caption of each.

    Args:
        prior: the model.
        count: number of scenes.
        steps: sampling steps.
        guidance: guidance scale.
        seed: seed of scenes and noise.
        seconds: time after which no further batch of 28 is begun, so that there are fewer scenes.

    Returns:
        The scenes and the samples, images in [0, 1].
    """
    scenes = random_scenes(count, np.random.default_rng(seed), unseen=True)
    images = sample_captions(prior, full_captions(scenes), steps, guidance, seed, seconds)
    return scenes[slice(0, len(images))], images


def sample_captions(
    prior: Prior,
    captions: list[str],
    steps: int,
    guidance: float,
    seed: int,
    seconds: float = math.inf,
    cameras: Float[Tensor, "n 4 4"] | None = None,
) -> Float[Tensor, "n 3 h w"]:
    """Draw one sample for each caption, or for the first ones if the time does not suffice.

    Args:
        prior: the model.
        captions: the captions.
        steps: sampling steps.
        guidance: guidance scale.
        seed: seed of the noise.
        seconds: time after which no further batch of 28 is begun.
        cameras: camera-to-world matrices that a model of several views takes.

    Returns:
        Samples in [0, 1].
    """
    count = len(captions)
    deadline = time.monotonic() + seconds
    pos, null = prior.condition(captions), prior.condition([""] * count)
    if cameras is not None:
        pos, null = (replace(c, camera=cameras.to(prior.device)) for c in (pos, null))
    conditions = Conditions(pos, null)
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *prior.shape, generator=rng).to(prior.device)
    images: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, count, _BATCH_SIZE):
            if images and time.monotonic() > deadline:
                break
            rows = slice(start, start + _BATCH_SIZE)
            x0 = sample_x0(prior, conditions[rows], noise[rows], steps, guidance)
            images.append(prior.decode(x0).cpu())
    return torch.cat(images)


def evaluate_samples(
    scenes: Scenes, images: Float[Tensor, "n 3 h w"], evaluator: Evaluator
) -> ModelCard:
    """Evaluate one sample per scene.

    Args:
        scenes: the scenes of the captions.
        images: the samples.
        evaluator: the world's evaluator.
    """
    labels = torch.from_numpy(scenes.labels())
    verdicts = evaluator.judge(images)
    correct = (verdicts == labels).float()
    has_views = torch.from_numpy(scenes.asymmetric)
    agreement = {name: correct[:, i].mean().item() for i, name in enumerate(ATTRIBUTES)}
    agreement["view"] = correct[has_views, 4].mean().item()
    by_object = {
        name: correct[labels[:, 0] == i, 0].mean().item()
        for i, name in enumerate(OBJECTS)
        if (labels[:, 0] == i).any()
    }
    others = random_scenes(len(scenes), np.random.default_rng(10_007), unseen=True)
    renders, other_renders = (images_to_tensor(render_scenes(s)) for s in (scenes, others))
    sampled, rendered, other_rendered = (
        evaluator.features(x).detach() for x in (images, renders, other_renders)
    )
    return ModelCard(
        count=len(scenes),
        agreement=agreement,
        by_object=by_object,
        rejected=(verdicts[:, 0] == REJECT).float().mean().item(),
        frechet=frechet_distance(sampled, rendered),
        frechet_renders=frechet_distance(other_rendered, rendered),
    )


def write_model_card(
    folder: Path,
    count: int = 256,
    steps: int = 50,
    guidance: float = 5.0,
    seconds: float = math.inf,
) -> dict:
    """Evaluate a pipeline on held-out scenes.

    Writes card.json and grid.png, with up to 56 samples, into its folder.

    Args:
        folder: folder of the pipeline.
        count: number of samples.
        steps: sampling steps.
        guidance: guidance scale.
        seconds: time after which no further samples are drawn, at least 28.

    Returns:
        The content of card.json.
    """
    from limbeck.priors.stable_diffusion import StableDiffusion
    from limbeck.world.pretrained import load_evaluator

    prior = StableDiffusion(str(folder))
    seed = 4321
    scenes, images = sample_held_out_captions(prior, count, steps, guidance, seed, seconds)
    metrics = evaluate_samples(scenes, images, load_evaluator(folder))
    card = {**asdict(metrics), "steps": steps, "guidance": guidance}
    by_object = np.argsort(scenes.object, kind="stable")
    num_shown = min(_GRID_SIZE, len(images) // _GRID_COLUMNS * _GRID_COLUMNS)
    shown = np.linspace(0, len(images) - 1, num_shown).round().astype(int)
    save_grid(images[by_object[shown]], folder / "grid.png", _GRID_COLUMNS)
    # last: a folder with a card is finished
    write_text(folder / "card.json", json.dumps(card, indent=1))
    return card
