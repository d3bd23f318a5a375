"""SSIM against an independent implementation."""

import math

import pytest
import torch

from limbeck.metrics.ssim import ssim


def draw_pair(height=14, width=13):
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(1, 3, height, width, generator=rng, dtype=torch.float64)
    others = images + 0.2 * torch.randn(images.shape, generator=rng, dtype=torch.float64)
    return images, others, torch.rand(1, 1, height, width, generator=rng) > 0.5


def window(y, x, height, width):
    """Positions and weights of the 11 x 11 window with sigma 1.5 around a pixel."""
    for v in range(max(0, y - 5), min(height, y + 6)):
        for u in range(max(0, x - 5), min(width, x + 6)):
            yield v, u, math.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * 1.5**2))


def pixel_ssim(a, b, y, x, counts):
    """The formula of the paper at one pixel of one channel, K1 = .01, K2 = .03, L = 1."""
    rows = [(w, a[v, u].item(), b[v, u].item()) for v, u, w in counts(y, x)]
    total = sum(w for w, _, _ in rows)
    ma, mb = (sum(r[0] * r[k] for r in rows) / total for k in (1, 2))
    va, vb = (sum(r[0] * (r[k] - m) ** 2 for r in rows) / total for k, m in ((1, ma), (2, mb)))
    cov = sum(w * (p - ma) * (q - mb) for w, p, q in rows) / total
    c1, c2 = 1e-4, 9e-4
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


@pytest.mark.parametrize("masked", [False, True])
def test_ssim_is_the_formula_over_the_kept_pixels(masked):
    images, others, keep = draw_pair()
    if not masked:
        keep = torch.ones_like(keep)
    height, width = images.shape[-2:]

    def counts(y, x):
        rows = window(y, x, height, width)
        return [(v, u, w) for v, u, w in rows if keep[0, 0, v, u]]

    values = [
        pixel_ssim(images[0, c], others[0, c], y, x, counts)
        for y, x in keep[0, 0].nonzero().tolist()
        for c in range(3)
    ]
    value = ssim(images, others, keep if masked else None)
    assert value.item() == pytest.approx(sum(values) / len(values), rel=1e-9)


def test_edited_pixels_have_no_influence():
    images, others, keep = draw_pair()
    changed = torch.where(keep, images, 1 - images)
    assert ssim(changed, others, keep).item() == pytest.approx(ssim(images, others, keep).item())
    assert ssim(changed, others).item() != pytest.approx(ssim(images, others).item(), rel=0.01)
    assert ssim(images, images, keep).item() == pytest.approx(1)
    assert ssim(images, others, torch.zeros_like(keep)).isnan().all()
