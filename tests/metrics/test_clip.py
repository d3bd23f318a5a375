"""CLIP similarities against transformers' own, on a model of random weights."""

import pytest
import torch
from tiny_clip import write_clip

from limbeck.metrics.clip import CLIPSimilarity


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def test_similarities_are_those_of_transformers(clip_folder):
    clip = CLIPSimilarity(clip_folder)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a yellow duck", "a red car", "a cone"]
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    with torch.no_grad():
        expected = clip.model(**tokens, pixel_values=(images - mean) / std).logits_per_image
    similarity = clip.similarity(images, texts)
    assert torch.allclose(similarity * clip.model.logit_scale.exp(), expected, atol=1e-4)
    in_chunks = clip.similarity(images, texts * 20)
    assert torch.allclose(in_chunks[:, 3:6], similarity, atol=1e-5)


def test_a_folder_without_clip_is_refused(tmp_path, eps_folder):
    for folder in (tmp_path, eps_folder):
        with pytest.raises(ValueError, match="holds no CLIP model"):
            CLIPSimilarity(folder)
