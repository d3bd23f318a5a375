"""CLIP score: similarity of images to their prompts."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def clip_scores(similarity: Float[Tensor, "n t"], own: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Cosine of the CLIP embeddings of each image and its own prompt.

    Range [-1, 1]; in papers 0.25 to 0.35, or times 100. Hessel et al. print 2.5 max(c, 0). Sample
    size: a mean over prompts, with its interval. Values of different CLIP models are not
    comparable, and a result that was optimized by CLIP is not to be judged by the same CLIP.

    Args:
        similarity: cosine of every image and every text.
        own: index of the text of each image.

    References:
        Hessel et al., "CLIPScore", 2021, arXiv 2104.08718.
    """
    return similarity[torch.arange(len(similarity)), own]
