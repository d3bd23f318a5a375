"""The shipped weights: small, without pickles, loadable by diffusers; the evaluator's accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.priors.loading import EMBEDDED_MODELS, load
from limbeck.priors.mvdream import MVDream
from limbeck.world.evaluator import REJECT, corrupt
from limbeck.world.pretrained import WEIGHTS, load_evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import ATTRIBUTES, BACKGROUNDS, Scenes, random_scenes, render_scenes


def draw(n: int, seed: int) -> tuple[Scenes, Tensor]:
    scenes = random_scenes(n, np.random.default_rng(seed))
    return scenes, images_to_tensor(render_scenes(scenes))


@pytest.mark.parametrize("folder", EMBEDDED_MODELS.values(), ids=EMBEDDED_MODELS)
def test_the_weights_are_small_and_hold_no_pickle(folder):
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 30e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt", ".png"}


def test_diffusers_loads_the_pipeline():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red sphere", num_inference_steps=4, guidance_scale=3.0, output_type="pt").images
    assert image.shape == (1, 3, 64, 64) and bool(image.isfinite().all())


def test_the_model_of_four_views_has_the_autoencoder_and_the_words_of_the_other():
    several, single = EMBEDDED_MODELS["world-mv"], EMBEDDED_MODELS["world"]
    for part in ("vae", "text_encoder", "tokenizer", "vocabulary.json"):
        for path in sorted((single / part).rglob("*")) or [single / part]:
            assert (several / path.relative_to(single)).read_bytes() == path.read_bytes(), path
    assert "_name_or_path" not in (several / "unet" / "config.json").read_text()
    prior = load("world-mv", "cpu")
    assert isinstance(prior, MVDream) and prior.group_size == 4


@pytest.mark.slow
def test_the_evaluator_reads_fresh_renders():
    scenes, images = draw(2000, 11)
    correct = (load_evaluator().judge(images) == torch.from_numpy(scenes.labels())).float()
    minimum = {"object": 0.97, "color": 0.95, "pattern": 0.95, "background": 0.98}
    for i, name in enumerate(ATTRIBUTES):
        if name in minimum:
            assert correct[:, i].mean() >= minimum[name], name
    assert correct[torch.from_numpy(scenes.asymmetric), 4].mean() >= 0.80


def test_the_evaluator_rejects_corrupted_images():
    (_, a), (_, b) = draw(60, 5), draw(60, 6)
    evaluator = load_evaluator()
    corrupted = evaluator.judge(corrupt(a, b, torch.Generator().manual_seed(0)))[:, 0]
    renders = evaluator.judge(a)[:, 0]
    assert (corrupted == REJECT).float().mean() > 0.7
    assert (renders == REJECT).float().mean() < 0.05


def test_the_evaluator_reads_backgrounds():
    scenes, images = draw(100, 9)
    verdicts = load_evaluator().judge(images)
    assert (verdicts[:, 3].numpy() == scenes.background).mean() > 0.97
    assert len(BACKGROUNDS) == 6
