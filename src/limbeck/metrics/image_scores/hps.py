"""Human Preference Score v2: a CLIP that was trained on rankings by annotators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.image_scores.base import ImageScore


class HPS(ImageScore):
    """The cosine of the embeddings of image and prompt.

    Range [-1, 1], about 0.2 to 0.3; papers print 100 times it. Versions 2 and 2.1 are not
    comparable. Sample size: a mean over prompts. Images are padded to a square with black, not
    cropped.

    Args:
        model: folder or hub id of the CLIPModel with its tokenizer, such as adams-story/HPSv2-hf.
        device: device of the model.

    References:
        Wu et al., "Human Preference Score v2", 2023, arXiv 2306.09341.
    """

    pads = True

    def __init__(self, model: Path | str, device: str = "cpu"):
        self.clip = CLIPSimilarity(model, device)
        self.size = self.clip.size

    def score(self, images: Float[Tensor, "n 3 s s"], prompts: Sequence[str]) -> Float[Tensor, "n"]:
        return self.clip.paired_similarity(images, prompts)
