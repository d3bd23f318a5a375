"""Colors beside those of true renders: CIE L*a*b* against published values, shares by hand."""

import pytest
import torch

from limbeck.metrics.true_color import (
    MIN_ALPHA,
    color_overlap,
    object_colors,
    srgb_to_lab,
    true_color,
)

#: 8-bit sRGB and CIE L*a*b* under D65, computed with scikit-image 0.26 (``skimage.color.rgb2lab``)
PUBLISHED = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.74, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 0): (97.14, -21.55, 94.48),
    (119, 119, 119): (50.03, 0.0, 0.0),
    (3, 2, 1): (0.59, 0.12, 0.47),
}


def gray(lightness):
    """The gray of a lightness L*, as sRGB: the inverse of both formulas by hand."""
    linear = ((lightness + 16) / 116) ** 3
    return (1.055 * linear ** (1 / 2.4) - 0.055,) * 3


def lab(*colors):
    return srgb_to_lab(torch.tensor(colors, dtype=torch.float32))


def test_lab_of_published_colors():
    found = srgb_to_lab(torch.tensor(list(PUBLISHED)) / 255)
    assert found.numpy() == pytest.approx(torch.tensor(list(PUBLISHED.values())).numpy(), abs=0.02)


def test_lab_of_random_colors_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    rgb = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    assert srgb_to_lab(rgb).numpy() == pytest.approx(color.rgb2lab(rgb.numpy()), abs=0.02)


def test_a_color_is_true_within_delta_e_15():
    white = lab((1.0, 1.0, 1.0))
    # lightness alone differs, so Delta E is its difference
    colors = lab(*(gray(lightness) for lightness in (100, 85.1, 84.9, 20)))
    assert true_color(colors, white) == 0.5
    black_and_white = torch.cat([white, lab((0.0, 0.0, 0.0))])
    assert true_color(lab(gray(14.9), gray(50), gray(90), gray(15.1)), black_and_white) == 0.5


def test_a_stain_in_another_part_of_the_true_colors_is_seen_by_the_overlap_alone():
    yellow, orange = lab((0.96, 0.86, 0.12)), lab((0.95, 0.5, 0.05))
    truth = torch.cat([yellow.repeat(95, 1), orange.repeat(5, 1)])
    stained = torch.cat([yellow.repeat(60, 1), orange.repeat(40, 1)])
    assert true_color(stained, truth) == 1
    assert color_overlap(stained, truth) == pytest.approx(0.65, abs=1e-5)
    assert color_overlap(truth, truth) == pytest.approx(1, abs=1e-5)
    assert color_overlap(lab((0.1, 0.2, 0.9)), truth) == 0


def test_the_overlap_falls_evenly_with_the_distance():
    """From one cell to the next, 15 units of lightness away, with no jump on the way."""
    base = torch.tensor([[45.0, 0.0, 0.0]])
    steps = [base + torch.tensor([[d, 0.0, 0.0]]) for d in (0.0, 3.75, 7.5, 15.0, 40.0)]
    found = [color_overlap(step, base) for step in steps]
    assert found == pytest.approx([1, 0.75, 0.5, 0, 0], abs=1e-5)


def test_every_srgb_color_has_a_cell():
    ends = torch.cartesian_prod(*[torch.linspace(0, 1, 6)] * 3)
    assert color_overlap(srgb_to_lab(ends), srgb_to_lab(ends)) == pytest.approx(1, abs=1e-5)


def test_fog_shows_no_color():
    images, alpha = torch.ones(2, 3, 4, 4), torch.full((2, 4, 4), 0.5)
    colors = object_colors(images, alpha >= MIN_ALPHA)
    assert len(colors) == 0
    assert true_color(colors, lab((1.0, 1.0, 1.0))) == color_overlap(colors, colors) == 0
