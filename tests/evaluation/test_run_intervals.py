"""Intervals of evaluated runs stay within the range of the metric and know what is no share."""

import math

import pytest

from limbeck.evaluation.run_intervals import run_intervals
from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.image_statistics import IMAGE_STATISTICS
from limbeck.runs.report.tables import SCORES


@pytest.mark.parametrize("name", SCORES)
def test_scores_in_percent_are_shares_and_others_are_not(name):
    is_share = SCORES[name].percent and name not in IMAGE_STATISTICS
    assert (metric_bounds(name) == (0.0, 1.0)) is is_share


def test_measurements_that_agree_have_no_width_and_shares_that_agree_have_one():
    prompts = [{"object": 1.0, "diversity": 0.25, "diversity_seeds": 0.25}] * 4
    intervals, unit = run_intervals(prompts)
    assert unit == "4 prompts"
    assert intervals["diversity"] == intervals["diversity_seeds"] == (0.25, 0.25)
    z2 = 1.959964**2
    assert intervals["object"] == (pytest.approx(4 / (4 + z2), rel=1e-5), 1.0)  # Wilson, 4 of 4


def test_an_interval_ends_where_values_end():
    low, high = run_intervals([{"vendi": 1.0, "object": 0.1}, {"vendi": 2.0, "object": 0.9}])[0][
        "vendi"
    ]
    half = 12.706205 * math.sqrt(0.5) / math.sqrt(2)  # Student's t with one degree of freedom
    assert low == 1.0
    assert high == pytest.approx(1.5 + half, rel=1e-5)
