"""CLIP similarities against transformers' own, on a model of random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import write_clip

import limbeck.metrics.clip
from limbeck.evaluation.measured_images import FeatureNetwork, embed_files
from limbeck.metrics.clip import CLIPSimilarity, find_clip


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


def test_hub_ids_and_folders_are_told_apart(monkeypatch, clip_folder, tmp_path):
    asked = []
    monkeypatch.setattr(
        limbeck.metrics.clip, "resolve_model", lambda name, index: asked.append(name) or clip_folder
    )
    monkeypatch.chdir(tmp_path)
    assert find_clip("openai/clip-vit-base-patch32") == clip_folder
    (tmp_path / "mine" / "clip").mkdir(parents=True)
    assert find_clip("mine/clip") == Path("mine/clip")  # a folder of that name
    assert find_clip(clip_folder) == clip_folder
    assert asked == ["openai/clip-vit-base-patch32"]


def test_images_are_prepared_as_by_the_processor_of_transformers(clip_folder, tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"shortest_edge": 32}
    processor = CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32})
    clip, rng = CLIPSimilarity(clip_folder), np.random.default_rng(0)
    network = FeatureNetwork("CLIP", clip.size, clip.embed_images)
    for height, width in ((64, 64), (120, 80), (50, 200)):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        image.save(tmp_path / "x.png")
        pixels = processor(image, return_tensors="pt").pixel_values
        tokens = clip.tokenizer(["a duck"], return_tensors="pt")
        with torch.no_grad():
            expected = clip.model(**tokens, pixel_values=pixels).image_embeds
        found = embed_files([tmp_path / "x.png"], network)
        assert torch.nn.functional.cosine_similarity(found, expected).item() > 0.9999


def test_weights_in_half_precision_are_evaluated_in_float32(clip_folder, tmp_path):
    from transformers import CLIPModel

    folder = shutil.copytree(clip_folder, tmp_path / "half")
    CLIPModel.from_pretrained(clip_folder).to(torch.bfloat16).save_pretrained(folder)
    clip = CLIPSimilarity(folder)
    assert {weight.dtype for weight in clip.model.parameters()} == {torch.float32}


def test_long_texts_are_cut_without_a_length_in_the_tokenizer(clip_folder):
    clip = CLIPSimilarity(clip_folder)
    clip.tokenizer.model_max_length = int(1e30)  # as transformers reads a file without it
    assert clip.embed_texts(["a yellow duck " * 40]).shape == (1, 16)
