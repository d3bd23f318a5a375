"""Colors of an object beside those of true renders of its prompt, by CIE Delta E."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: CIE 1976 distance up to which two colors count as the same; one of 2.3 is just noticeable
MAX_DELTA_E = 15.0
#: opacity from which a pixel shows the object and not what is behind it
MIN_ALPHA = 0.9
#: linear sRGB to XYZ with the white of D65 divided out (IEC 61966-2-1)
_XYZ_OF_RGB = torch.tensor(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
) / torch.tensor([[0.950470], [1.0], [1.088830]])
#: lowest L*, a*, b* of the histograms and their number of cells, with a margin around sRGB
_LOWEST, _CELLS = (0.0, -105.0, -120.0), (9, 16, 16)
_PIXELS_AT_ONCE = 1 << 13  #: bounds the memory of the distances


def srgb_to_lab(colors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Convert sRGB colors in [0, 1] to CIE L*a*b* under D65.

    L* = 116 f(Y) - 16, a* = 500 (f(X) - f(Y)), b* = 200 (f(Y) - f(Z)), where f is the cube root,
    and linear below (6 / 29)^3.

    Args:
        colors: sRGB in [0, 1].

    References:
        CIE 15:2004, Colorimetry, section 8.2.1; IEC 61966-2-1 for sRGB.
    """
    linear = torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ_OF_RGB.to(colors).T
    epsilon = (6 / 29) ** 3
    f = torch.where(xyz > epsilon, xyz.clamp_min(epsilon) ** (1 / 3), xyz * 841 / 108 + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def object_colors(
    images: Float[Tensor, "b 3 h w"], opaque: Bool[Tensor, "b h w"]
) -> Float[Tensor, "n 3"]:
    """Colors of the opaque pixels of images, in CIE L*a*b*.

    Args:
        images: renders in [0, 1].
        opaque: which pixels show nothing but the object.
    """
    return srgb_to_lab(images.float().permute(0, 2, 3, 1)[opaque])


def true_color(colors: Float[Tensor, "n 3"], true_colors: Float[Tensor, "m 3"]) -> float:
    """Compute the share of colors within ``MAX_DELTA_E`` of the nearest true one.

    Share of i with min_j ||colors_i - true_colors_j|| <= 15, in CIE L*a*b* (Delta E of CIE 1976).

    Args:
        colors: colors of the pixels of an object.
        true_colors: colors of true renders.

    Returns:
        Range [0, 1], 1 is best. 0 without pixels: fog shows no color. Sample size: any.
        A color counts wherever and however often it is shown; see ``color_overlap``.

    References:
        CIE 15:2004, Colorimetry, section 8.2.1.1: Delta E*ab.
    """
    if not len(colors):
        return 0.0
    # whole units are far finer than 15, and leave few true colors to compare with
    palette = true_colors.round().unique(dim=0)
    nearest = [torch.cdist(part, palette).amin(1) for part in colors.split(_PIXELS_AT_ONCE)]
    return (torch.cat(nearest) <= MAX_DELTA_E).float().mean().item()


def color_overlap(colors: Float[Tensor, "n 3"], true_colors: Float[Tensor, "m 3"]) -> float:
    """Compute how far the colors of an object are as frequent as in true renders.

    Histogram intersection sum_c min(p_c, q_c) over cells of CIE L*a*b* with sides of
    ``MAX_DELTA_E``, between which each color is divided linearly. Unlike ``true_color`` it sees
    a stain in a color that the true object has elsewhere.

    Args:
        colors: colors of the pixels of an object.
        true_colors: colors of true renders.

    Returns:
        Range [0, 1], 1 is best. 0 without pixels. Sample size: thousands of pixels; histograms of
        few overlap less by chance.

    References:
        Swain and Ballard, Color Indexing, IJCV 7, 1991, section 3.
    """
    if not len(colors):
        return 0.0
    return torch.minimum(_histogram(colors), _histogram(true_colors)).sum().item()


def _histogram(colors: Float[Tensor, "n 3"]) -> Float[Tensor, "c"]:
    """Shares of the cells, each color divided linearly over the eight around it."""
    position = (colors - torch.tensor(_LOWEST)) / MAX_DELTA_E
    lower = position.floor()
    counts = torch.zeros(_CELLS, dtype=torch.float64)
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        weights = torch.where(corner.bool(), position - lower, 1 - position + lower).prod(1)
        counts.index_put_((lower.long() + corner).unbind(1), weights.double(), accumulate=True)
    return (counts / len(colors)).float().flatten()
