"""What is handed to the package lpips, with a network of one line in its place."""

import sys
from types import SimpleNamespace

import pytest
import torch

from limbeck.metrics.lpips_distance import load_lpips, lpips_distance


class _MeanDistance(torch.nn.Module):
    """Called as lpips.LPIPS is: images in [0, 1] if ``normalize``."""

    def __init__(self, net, verbose):
        super().__init__()
        assert net == "squeeze"
        assert not verbose
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, a, b, normalize=False):
        assert normalize
        return (self.scale * (a - b).abs()).mean((1, 2, 3), keepdim=True)


def test_the_edited_part_is_black_in_both_images(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=_MeanDistance))
    network = load_lpips()
    images, others = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    keep = torch.tensor([[1, 0], [0, 0]], dtype=torch.bool).expand(2, 1, 2, 2)
    assert lpips_distance(images, others, network).tolist() == [1, 1]
    assert lpips_distance(images, others, network, keep).tolist() == [0.25, 0.25]


def test_a_missing_package_is_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="LPIPS needs the package lpips, which is no extra"):
        load_lpips()
