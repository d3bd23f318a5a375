"""Scores of CLIP models that were trained on people's choices between images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.clip import CLIPSimilarity


def pick_scores(
    model: CLIPSimilarity, image_embeds: Float[Tensor, "n d"], text_embeds: Float[Tensor, "n d"]
) -> Float[Tensor, "n"]:
    """PickScore of images, each for its own prompt: the cosine times the model's logit scale.

    Range: real, about 17 to 24. Sample size: a mean over prompts; only differences on the same
    prompts mean something. The softmax over two images is the chance that the first is preferred.

    Args:
        model: the CLIP of PickScore, such as yuvalkirstain/PickScore_v1.
        image_embeds: embeddings of the images, of length 1.
        text_embeds: embeddings of the prompt of each.

    References:
        Kirstain et al., "Pick-a-Pic", 2023, arXiv 2305.01569.
    """
    return model.logit_scale * (image_embeds * text_embeds).sum(1)


def hps_scores(
    image_embeds: Float[Tensor, "n d"], text_embeds: Float[Tensor, "n d"]
) -> Float[Tensor, "n"]:
    """Human Preference Score v2 of images, each for its own prompt: the cosine.

    Range [-1, 1], about 0.2 to 0.3; papers print 100 times it. Versions 2 and 2.1 are not
    comparable. Sample size: a mean over prompts. Images are padded to a square with black, not
    cropped.

    Args:
        image_embeds: embeddings of the padded images, of length 1.
        text_embeds: embeddings of the prompt of each.

    References:
        Wu et al., "Human Preference Score v2", 2023, arXiv 2306.09341.
    """
    return (image_embeds * text_embeds).sum(1)
