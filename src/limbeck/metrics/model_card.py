"""How well a model of the world follows its prompts: agreement by the evaluator, and the Frechet distance to true renders."""

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
from limbeck.diffusion.sampling import sample
from limbeck.metrics.frechet import frechet_distance
from limbeck.world.evaluator import REJECT, Evaluator
from limbeck.world.render_cache import as_images
from limbeck.world.scene import ATTRIBUTES, OBJECTS, Scenes, full_captions, random_scenes, render


@dataclass(frozen=True)
class Verdict:
    """Shares in [0, 1] of samples whose attribute is as asked; ``view`` over objects whose views differ. ``rejected``: called no
    object.

    frechet: between the samples and as many renders of the same scenes, in the evaluator's features; ``frechet_renders`` is the
    same between two sets of renders, the floor for that many pictures.
    """

    count: int
    agreement: dict[str, float]
    by_object: dict[str, float]
    rejected: float
    frechet: float
    frechet_renders: float


def judged_samples(
    prior: Prior, count: int, steps: int, guidance: float, seed: int
) -> tuple[Scenes, Float[Tensor, "n 3 h w"]]:
    """Held-out scenes and one sample for the full caption of each."""
    scenes = random_scenes(count, np.random.default_rng(seed), unseen=True)
    texts = full_captions(scenes)
    told = Conditions(prior.condition(texts), prior.condition([""] * count))
    noise = torch.randn(count, *prior.shape, generator=torch.Generator().manual_seed(seed)).to(
        prior.device
    )
    with torch.no_grad():
        parts = [
            prior.decode(
                sample(prior, told[slice(i, i + 32)], noise[i : i + 32], steps, guidance)
            ).cpu()
            for i in range(0, count, 32)
        ]
    return scenes, torch.cat(parts)


def judge(scenes: Scenes, images: Float[Tensor, "n 3 h w"], evaluator: Evaluator) -> Verdict:
    """The evaluator's verdict on one picture per scene."""
    truth = torch.from_numpy(scenes.labels())
    said = evaluator.judge(images)
    right = (said == truth).float()
    telling = torch.from_numpy(scenes.asymmetric)
    agreement = {name: right[:, i].mean().item() for i, name in enumerate(ATTRIBUTES)}
    agreement["view"] = right[telling, 4].mean().item()
    by_object = {
        name: right[truth[:, 0] == i, 0].mean().item()
        for i, name in enumerate(OBJECTS)
        if (truth[:, 0] == i).any()
    }
    renders = as_images(render(scenes))
    others = as_images(
        render(random_scenes(len(scenes), np.random.default_rng(10_007), unseen=True))
    )
    features = [evaluator.features(x).detach() for x in (images, renders, others)]
    return Verdict(
        len(scenes), agreement, by_object, (said[:, 0] == REJECT).float().mean().item(),
        frechet_distance(features[0], features[1]), frechet_distance(features[2], features[1]),
    )  # fmt: skip


def score(folder: Path, count: int = 256, steps: int = 50, guidance: float = 5.0) -> dict:
    """Judge a pipeline on held-out combinations; writes card.json and grid.png (56 pictures) into ``folder`` and returns the
    figures."""
    from PIL import Image

    from limbeck.priors.stable_diffusion import StableDiffusion
    from limbeck.world.pretrained import load_evaluator

    prior = StableDiffusion(str(folder))
    scenes, images = judged_samples(prior, count, steps, guidance, seed=4321)
    verdict = judge(scenes, images, load_evaluator(folder))
    card = {**asdict(verdict), "steps": steps, "guidance": guidance}
    (folder / "card.json").write_text(json.dumps(card, indent=1))
    first = np.argsort(scenes.object, kind="stable")
    shown = images[first[np.linspace(0, count - 1, 56).round().astype(int)]]
    grid = shown.unflatten(0, (4, 14)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((grid.numpy() * 255).round().astype(np.uint8)).save(folder / "grid.png")
    return card
