"""The study of a known distribution."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.metrics.energy_distance import energy_distance
from limbeck.studies.distribution import (
    DistributionStudy,
    _caption,
    _measure,
    three_gaussians,
)


def test_the_truth_is_compared_with_another_draw() -> None:
    prior, study = three_gaussians(), DistributionStudy(particles=1000)
    first, second = (study._samples(prior, draw) for draw in (0, 1))
    assert not torch.equal(first, second)
    # of equal points the estimate is -2 E|a - a'| / n < 0; of two draws it is unbiased around 0
    assert abs(energy_distance(first, second)) < 0.02


def test_a_mode_without_points_has_no_width() -> None:
    means = three_gaussians().means.float()
    metrics = _measure(means[:2].repeat(3, 1), means, means)
    assert metrics["shares"] == [0.5, 0.5, 0.0] and metrics["widths"] == [0.0, 0.0, None]
    json.dumps(metrics, allow_nan=False)
    assert "widths 0.00 0.00 -" in _caption(metrics)


def test_results_of_other_options_are_not_replaced(tmp_path) -> None:
    DistributionStudy(particles=4, steps=1).run(tmp_path)
    before = (tmp_path / "metrics.json").read_text()
    with pytest.raises(ValueError, match="holds this study with particles 4, not 5"):
        DistributionStudy(particles=5, steps=1).run(tmp_path)
    DistributionStudy(particles=4, steps=1).run(tmp_path)
    assert (tmp_path / "metrics.json").read_text() == before
    with pytest.raises(ValueError, match="particles must be at least 2"):
        DistributionStudy(particles=1)
