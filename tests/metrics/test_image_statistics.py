"""Image statistics against values computed by hand."""

import colorsys

import pytest
import torch

from limbeck.metrics.feature_diversity import feature_diversity
from limbeck.metrics.image_statistics import clipped, diversity, saturation, total_variation


def uniform_image(*rgb):
    return torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 4, 4)


def test_saturation_is_that_of_hsv():
    images = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    expected = [colorsys.rgb_to_hsv(*pixel)[1] for pixel in pixels]
    assert saturation(images) == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert saturation(uniform_image(0.0, 0.0, 0.0)) == 0.0


def test_clipped_counts_values_at_0_and_255_in_8_bits():
    image = torch.tensor([0.0, 0.001, 0.999, 1.0, 0.01, 0.5]).view(1, 3, 1, 2)
    assert clipped(image) == pytest.approx(4 / 6)


def test_total_variation_of_stripes():
    image = torch.zeros(1, 3, 4, 4)
    image[..., 1::2] = 1
    # every pair in x differs by 1, no pair in y
    assert total_variation(image) == pytest.approx(0.5)
    assert total_variation(uniform_image(0.2, 0.4, 0.6)) == 0.0


def test_diversity_is_the_mean_over_pairs():
    gray = torch.cat([uniform_image(v, v, v) for v in (0.0, 0.3, 0.9)])
    assert diversity(gray) == pytest.approx((0.3 + 0.9 + 0.6) / 3, abs=1e-6)
    assert diversity(gray[:1]) is None


def test_feature_diversity_is_a_cosine_distance():
    colors = ((1.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.2, 0.0, 0.0))
    images = torch.cat([uniform_image(*rgb) for rgb in colors])
    assert feature_diversity(images, lambda x: x.mean((2, 3))) == pytest.approx(2 / 3, abs=1e-6)


def test_feature_diversity_is_the_mean_over_pairs_in_memory_that_does_not_grow_with_them():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 5, generator=generator)
    features[3] = 0.0
    pairs = [
        1 - torch.nn.functional.cosine_similarity(features[i], features[j], 0).item()
        for i in range(7)
        for j in range(i)
    ]
    images = torch.zeros(7, 3, 1, 1)
    found = feature_diversity(images, lambda x: features)
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    many = torch.randn(200_000, 4, generator=generator)  # 2e10 pairs
    found = feature_diversity(torch.zeros(200_000, 3, 1, 1), lambda x: many)
    assert found == pytest.approx(1.0, abs=1e-2)
