"""CLIP score."""

import torch

from limbeck.metrics.clip_score import clip_scores


def test_each_image_is_compared_with_its_own_text():
    similarity = torch.tensor([[0.3, 0.1, 0.2], [0.0, 0.4, -0.5]])
    assert (
        clip_scores(similarity, torch.tensor([2, 1])).tolist()
        == similarity[[0, 1], [2, 1]].tolist()
    )
