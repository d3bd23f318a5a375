"""PickScore: a CLIP that was trained on choices of the users of a web page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.image_scores.base import ImageScore


class PickScore(ImageScore):
    """The cosine of the embeddings of image and prompt, times the model's logit scale.

    Range: real, about 17 to 24. Sample size: a mean over prompts; only differences on the same
    prompts mean something. The softmax over two images is the chance that the first is preferred.

    Args:
        model: folder or hub id of the CLIPModel with its tokenizer, such as
            yuvalkirstain/PickScore_v1.
        device: device of the model.

    References:
        Kirstain et al., "Pick-a-Pic", 2023, arXiv 2305.01569.
    """

    def __init__(self, model: Path | str, device: str = "cpu"):
        self.clip = CLIPSimilarity(model, device)
        self.size = self.clip.size

    def score(self, images: Float[Tensor, "n 3 s s"], prompts: Sequence[str]) -> Float[Tensor, "n"]:
        return self.clip.logit_scale * self.clip.paired_similarity(images, prompts)
