"""Metrics of edits: how much of the source is kept, and whether the edited part fits its prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limbeck.evaluation.image_sets import ImageSet, Key, prompt_of
from limbeck.evaluation.measured_images import MeasuredImages
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.edited_part import edited_part_scores
from limbeck.metrics.lpips_distance import lpips_distance
from limbeck.metrics.masked_error import masked_mse, masked_psnr
from limbeck.metrics.square_images import center_square
from limbeck.metrics.ssim import ssim
from limbeck.metrics.structure_distance import DinoKeys, structure_distance
from limbeck.system.image_files import read_image, read_mask, read_whole_image


@torch.no_grad()
def add_edit_values(
    measured: MeasuredImages,
    images: ImageSet,
    clip: CLIPSimilarity | None = None,
    dino: DinoKeys | None = None,
    lpips: Any = None,
) -> MeasuredImages:
    """Add the metrics of edits to images that have source images.

    Sources and masks are scaled and cropped to the size of their edit. A pixel is edited where the
    mask is then at least half white.

    Args:
        measured: the images.
        images: their files, source images and masks.
        clip: CLIP, for the edited part.
        dino: vision transformer, for the structure distance.
        lpips: network of LPIPS.
    """
    values: dict[str, dict[Key, float]] = {}
    for row, (key, path) in enumerate(zip(images.keys, images.paths, strict=True)):
        image = read_whole_image(path)
        size = (image.shape[1], image.shape[2])
        source = read_image(images.sources[row], size)
        own = _comparison(image[None], source[None], dino)
        if images.masks:
            # not above 0: around an edge that was scaled or compressed there is a faint ring
            edited = read_mask(images.masks[row], size)[None] >= 0.5
            own |= _masked(image[None], source[None], edited, lpips)
            square, part = center_square(image)[None], center_square(edited[0])[None]
            if clip is not None and bool(part.any()):
                score = edited_part_scores(square, part, [prompt_of(key[0])], clip)
                own["clip_edited"] = score.item()
        for name, value in own.items():
            values.setdefault(name, {})[key] = value
    return replace(measured, values=measured.values | values)


def _comparison(image: Tensor, source: Tensor, dino: DinoKeys | None) -> dict[str, float]:
    values = {"change": masked_mse(image, source).sqrt().item()}
    if dino is not None:
        own, other = (center_square(one[0])[None] for one in (image, source))
        values["structure_distance"] = structure_distance(own, other, dino).item()
        published = structure_distance(own, other, dino, as_published=True)
        values["structure_distance_published"] = published.item()
    return values


def _masked(image: Tensor, source: Tensor, edited: Tensor, lpips: Any) -> dict[str, float]:
    """Metrics outside the mask; none if it leaves no pixel."""
    keep = ~edited
    if not bool(keep.any()):
        return {}
    values = {
        "mse_outside": masked_mse(image, source, keep).item(),
        "psnr_outside": masked_psnr(image, source, keep).item(),
        "ssim_outside": ssim(image, source, keep).item(),
    }
    if lpips is not None:
        values["lpips_outside"] = lpips_distance(image, source, lpips, keep).item()
    return values
