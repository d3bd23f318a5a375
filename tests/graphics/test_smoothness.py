"""Smoothness of normals, by hand."""

import pytest
import torch

from limbeck.graphics.rendering.smoothness import normal_smoothness


def test_a_step_costs_its_square():
    """One of 2 x 3 columns faces +x, the others -x; opaque but for the last row."""
    normal = torch.zeros(1, 3, 2, 3)
    normal[:, 0] = torch.tensor([1.0, -1.0, -1.0])
    alpha = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1).expand(1, 1, 2, 3)
    # from (1, .5, .5) or (0, .5, .5) to nothing: 1.5 and twice .5, over 9 differences
    vertical = (1.5 + 0.5 + 0.5) / 9
    horizontal = 1.0 / 12  # one step of 1 in x among 4 pairs of 3 channels
    found = normal_smoothness(normal, alpha)
    assert found.item() == pytest.approx(vertical + horizontal)
    assert normal_smoothness(normal[..., 1:], torch.ones(1, 1, 2, 2)).item() == 0
