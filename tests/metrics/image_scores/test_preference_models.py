"""Preference scores by the formulas of their papers, on a CLIP of random weights."""

import pytest
import torch
from PIL import Image
from tiny_clip import write_clip

from limbeck.evaluation.image_sets import ImageSet
from limbeck.evaluation.measured_images import MeasuredImages, add_scores
from limbeck.metrics.image_scores.hps import HPS
from limbeck.metrics.image_scores.pick_score import PickScore
from limbeck.metrics.square_images import pad_square


def test_scores_are_logits_and_cosines_of_each_image_with_its_prompt(tmp_path):
    folder = write_clip(tmp_path / "clip")
    models = (PickScore(folder), HPS(folder))
    model = models[0].clip
    rng = torch.Generator().manual_seed(0)
    prompts, sizes = ["a yellow duck", "a red car", "a yellow duck"], [(32, 32), (48, 32), (32, 32)]
    pixels = [torch.randint(256, (h, w, 3), generator=rng).byte() for h, w in sizes]
    paths = tuple(tmp_path / f"{i}.png" for i in range(3))
    for path, own in zip(paths, pixels, strict=True):
        Image.fromarray(own.numpy()).save(path)
    images = ImageSet("set", paths, tuple((p, (0, i)) for i, p in enumerate(prompts)))
    empty = MeasuredImages("set", images.keys, torch.zeros(3, 1), {})
    found = add_scores(empty, images, models).values
    for i, key in enumerate(images.keys):
        tokens = model.tokenizer([prompts[i]], return_tensors="pt")
        image = pixels[i].permute(2, 0, 1) / 255
        if i != 1:  # needs no cropping
            ready = (image - model.mean) / model.std
            with torch.no_grad():
                logits = model.model(**tokens, pixel_values=ready[None]).logits_per_image.item()
            assert found["pick_score"][key] == pytest.approx(logits, abs=1e-4)
        cosine = model.similarity(pad_square(image)[None], [prompts[i]]).item()
        assert found["hps"][key] == pytest.approx(cosine, abs=1e-5)
    key = images.keys[1]  # PickScore crops, HPSv2 pads
    assert abs(found["pick_score"][key] / model.logit_scale - found["hps"][key]) > 1e-4


def test_padding_centers_an_image_in_black():
    square = pad_square(torch.ones(3, 2, 5))
    assert square.shape == (3, 5, 5)
    assert square[0].sum(1).tolist() == [0, 5, 5, 0, 0]
    assert pad_square(torch.ones(3, 4, 1))[0].sum(0).tolist() == [0, 4, 0, 0]
