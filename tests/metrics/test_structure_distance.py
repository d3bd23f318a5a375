"""Structure distance on a transformer of random weights, against its formula."""

import pytest
import torch
from tiny_dino import write_dino

from limbeck.metrics.structure_distance import DinoKeys, structure_distance

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def dino(folder):
    return DinoKeys(folder)


def draw_images(seed, size=32):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def halved(image, as_published):
    """Bilinear at half the size: without smoothing it is the mean of four pixels."""
    if as_published:
        return torch.nn.functional.avg_pool2d(image, 2)
    resize = torch.nn.functional.interpolate
    return resize(image[None], scale_factor=0.5, mode="bilinear", antialias=True)[0]


def keys_by_hand(folder, image, white):
    """Keys of the last layer, from the hidden states before it and the weights in the file."""
    from safetensors.torch import load_file
    from transformers import ViTModel

    model = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    pixels = torch.stack([(white * image[c] - MEAN[c]) / STD[c] for c in range(3)])[None]
    with torch.no_grad():
        hidden = model(pixels, output_hidden_states=True).hidden_states[1][0]
    weights = load_file(folder / "model.safetensors")

    def own(*endings):
        (name,) = [name for name in weights if ".1." in name and name.endswith(endings)]
        return weights[name]

    scale, shift = own("layernorm_before.weight"), own("layernorm_before.bias")
    centered = hidden - hidden.mean(1, keepdim=True)
    normed = centered / (centered.square().mean(1, keepdim=True) + 1e-12).sqrt() * scale + shift
    return normed @ own("key.weight", "k_proj.weight").T + own("key.bias", "k_proj.bias")


@pytest.mark.parametrize("as_published", [False, True])
def test_distance_is_the_formula_of_the_papers(folder, dino, as_published):
    images, sources = draw_images(0, 64), draw_images(1, 64)
    expected = []
    for image, source in zip(images, sources, strict=True):
        similarities = []
        for own in (image, source):
            small = halved(own, as_published)
            keys = keys_by_hand(folder, small, 255.0 if as_published else 1.0)
            cosines = [[torch.cosine_similarity(a, b, 0) for b in keys] for a in keys]
            similarities.append(torch.tensor(cosines))
        assert similarities[0].shape == (17, 17)
        expected.append((similarities[0] - similarities[1]).square().mean().item())
    distances = structure_distance(images, sources, dino, as_published)
    assert distances.tolist() == pytest.approx(expected, rel=1e-3)


def test_equal_images_have_distance_zero_and_any_size(dino):
    images = draw_images(2, 64)
    assert structure_distance(images, images, dino).abs().max() == 0
    assert structure_distance(images, draw_images(3, 48), dino).min() > 0


def test_another_model_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")
    with pytest.raises(ValueError, match="holds no vision transformer of DINO: give a folder"):
        DinoKeys(tmp_path)


def test_weights_in_half_precision_are_evaluated_in_float32(folder, tmp_path):
    from transformers import ViTModel

    model = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert {weight.dtype for weight in DinoKeys(tmp_path).model.parameters()} == {torch.float32}
