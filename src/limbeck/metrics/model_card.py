"""Evaluation of a world model: agreement with prompts and Fréchet distance to true renders."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import sample_x0
from limbeck.metrics.frechet import frechet_distance
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

_BATCH_SIZE = 32
_GRID = (4, 14)


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
    prior: Prior, count: int, steps: int, guidance: float, seed: int
) -> tuple[Scenes, Float[Tensor, "n 3 h w"]]:
    """Draw held-out scenes and one sample for the full caption of each.

    Args:
        prior: the model.
        count: number of scenes.
        steps: sampling steps.
        guidance: guidance scale.
        seed: seed of scenes and noise.

    Returns:
        The scenes and the samples, images in [0, 1].
    """
    scenes = random_scenes(count, np.random.default_rng(seed), unseen=True)
    captions = full_captions(scenes)
    conditions = Conditions(prior.condition(captions), prior.condition([""] * count))
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *prior.shape, generator=rng).to(prior.device)
    images = []
    with torch.no_grad():
        for start in range(0, count, _BATCH_SIZE):
            rows = slice(start, start + _BATCH_SIZE)
            x0 = sample_x0(prior, conditions[rows], noise[rows], steps, guidance)
            images.append(prior.decode(x0).cpu())
    return scenes, torch.cat(images)


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
    folder: Path, count: int = 256, steps: int = 50, guidance: float = 5.0
) -> dict:
    """Evaluate a pipeline on held-out scenes.

    Writes card.json and grid.png, with 56 samples, into its folder.

    Args:
        folder: folder of the pipeline.
        count: number of samples.
        steps: sampling steps.
        guidance: guidance scale.

    Returns:
        The content of card.json.
    """
    from PIL import Image

    from limbeck.priors.stable_diffusion import StableDiffusion
    from limbeck.world.pretrained import load_evaluator

    prior = StableDiffusion(str(folder))
    scenes, images = sample_held_out_captions(prior, count, steps, guidance, seed=4321)
    metrics = evaluate_samples(scenes, images, load_evaluator(folder))
    card = {**asdict(metrics), "steps": steps, "guidance": guidance}
    (folder / "card.json").write_text(json.dumps(card, indent=1))
    by_object = np.argsort(scenes.object, kind="stable")
    shown = np.linspace(0, count - 1, _GRID[0] * _GRID[1]).round().astype(int)
    tiles = images[by_object[shown]].unflatten(0, _GRID)
    grid = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((grid.numpy() * 255).round().astype(np.uint8)).save(folder / "grid.png")
    return card
