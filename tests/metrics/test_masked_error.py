"""Mean square error and PSNR over some pixels."""

import math

import pytest
import torch

from limbeck.metrics.masked_error import masked_mse, masked_psnr


def draw_pair(seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 6, 5, generator=rng)
    others = torch.rand(2, 3, 6, 5, generator=rng)
    return images, others, torch.rand(2, 1, 6, 5, generator=rng) > 0.4


def test_errors_are_means_over_the_kept_pixels():
    images, others, keep = draw_pair()
    for i in range(2):
        errors = [
            (images[i, c, y, x] - others[i, c, y, x]).item() ** 2
            for c in range(3)
            for y in range(6)
            for x in range(5)
            if keep[i, 0, y, x]
        ]
        mean = sum(errors) / len(errors)
        assert masked_mse(images, others, keep)[i] == pytest.approx(mean, rel=1e-6)
        assert masked_psnr(images, others, keep)[i] == pytest.approx(
            10 * math.log10(1 / mean), rel=1e-6
        )


def test_edited_pixels_have_no_influence():
    images, others, keep = draw_pair()
    changed = torch.where(keep, images, torch.zeros(()))
    assert torch.equal(masked_mse(images, others, keep), masked_mse(changed, others, keep))
    assert not torch.equal(masked_mse(images, others), masked_mse(changed, others))


def test_psnr_of_equal_images_is_that_of_rounding():
    images, others, keep = draw_pair()
    assert masked_psnr(images, images)[0] == pytest.approx(
        20 * math.log10(255) + 10 * math.log10(12)
    )
    step = torch.full_like(images, 1 / 255)
    assert masked_psnr(images + step, images)[0] == pytest.approx(20 * math.log10(255), abs=1e-4)
    assert masked_psnr(images, others, torch.zeros_like(keep)).isnan().all()
