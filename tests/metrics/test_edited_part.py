"""CLIP score of the edited part, on random weights."""

import pytest
import torch
from tiny_clip import write_clip

from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.edited_part import edited_part_scores


def test_the_rest_of_the_image_is_black(tmp_path):
    clip = CLIPSimilarity(write_clip(tmp_path))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    edited = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    edited[:, :, 4:20, 8:30] = True
    prompts = ["a yellow duck", "a yellow cube"]
    scores = edited_part_scores(images, edited, prompts, clip)
    by_hand = torch.zeros_like(images)
    by_hand[:, :, 4:20, 8:30] = images[:, :, 4:20, 8:30]
    expected = clip.similarity(by_hand, prompts).diagonal()
    assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert scores.tolist() != pytest.approx(clip.similarity(images, prompts).diagonal().tolist())
