"""A mean with its interval."""

import pytest

from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.intervals import SHARE


def test_a_mean_has_the_t_interval_of_its_units():
    found = mean_estimate([1.0, 2.0, 4.0])
    half = 4.302653 * (7 / 3) ** 0.5 / 3**0.5  # t quantile of 2 degrees of freedom, variance 7/3
    assert found.value == pytest.approx(7 / 3) and found.num_units == 3
    assert found.interval == pytest.approx((7 / 3 - half, 7 / 3 + half), rel=1e-6)
    assert found.by_unit == (1.0, 2.0, 4.0) and not found.excludes_zero


def test_an_interval_stays_within_its_bounds():
    assert mean_estimate([0.0, 1.0], SHARE).interval == pytest.approx((0.0, 1.0), abs=1e-9)
    low, high = mean_estimate([0.99, 0.999, 0.6, 0.97], (-1.0, 1.0)).interval
    assert -1 < low < high < 1
    assert mean_estimate([1.0, 1.0, 0.2], SHARE, is_difference=True).interval[1] == 1.0


def test_one_unit_has_no_interval_and_excludes_nothing():
    single = mean_estimate([3.0])
    assert single.interval is None and not single.excludes_zero
    assert (-single).value == -3.0 and (-single).interval is None


@pytest.mark.parametrize(
    ("ends", "excludes"),
    [((0.1, 2.0), True), ((-2.0, -0.1), True), ((-1, 1), False), ((0, 1), False)],
)
def test_zero_is_excluded_by_either_side(ends, excludes):
    found = Estimate(sum(ends) / 2, ends)
    assert found.excludes_zero is excludes and (-found).excludes_zero is excludes
    assert (-found).interval == (-ends[1], -ends[0])
