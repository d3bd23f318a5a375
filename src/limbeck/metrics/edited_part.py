"""CLIP score of the edited part of images."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.metrics.clip import CLIPSimilarity


def edited_part_scores(
    images: Float[Tensor, "n 3 h w"],
    edited: Bool[Tensor, "n 1 h w"],
    prompts: Sequence[str],
    clip: CLIPSimilarity,
) -> Float[Tensor, "n"]:
    """Cosine of the CLIP embeddings of the edited part of each image and its target prompt.

    The rest is black, as in PIE-Bench, which prints 100 times the value. Range -1 to 1. Values of
    different CLIP models are not comparable, nor are those of different masks. Sample size: a value
    per image; a mean of any number.

    Args:
        images: square images in [0, 1].
        edited: the edited part of each.
        prompts: the target prompt of each.
        clip: CLIP.

    References:
        Ju et al., "PnP Inversion", 2023, arXiv 2310.01506.
    """
    embeds = clip.embed_images(images * edited.float())
    return (embeds * clip.embed_texts(list(prompts))).sum(1)
