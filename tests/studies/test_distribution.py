"""The study of a known distribution."""

from __future__ import annotations

import torch

from limbeck.metrics.energy_distance import energy_distance
from limbeck.studies.distribution import DistributionStudy, three_gaussians


def test_the_truth_is_compared_with_another_draw() -> None:
    prior, study = three_gaussians(), DistributionStudy(particles=1000)
    first, second = (study._samples(prior, draw) for draw in (0, 1))
    assert not torch.equal(first, second)
    # of equal points the estimate is -2 E|a - a'| / n < 0; of two draws it is unbiased around 0
    assert abs(energy_distance(first, second)) < 0.02
