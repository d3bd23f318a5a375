"""Numbers of tables: bold differences do not show zero, shares differ by points."""

from functools import partial

import pytest

from limbeck.leaderboard.exact_priors.table import exact_number
from limbeck.leaderboard.report.markdown import difference_text, markdown_table, value_text
from limbeck.metrics.estimate import Estimate
from limbeck.runs.report.image_metrics import image_metric


def percent(value):
    return f"{100 * value:.0f} %"


def test_bars_in_names_end_no_cell():
    table = markdown_table([["", "right"], ["a|b", "1"]])
    assert table.splitlines()[2] == r"| a\|b | 1 |"


def test_a_bold_difference_does_not_show_zero():
    number = partial(exact_number, "energy_distance")
    found = difference_text(Estimate(0.011, (0.0004, 0.022)), number)
    assert found == "**0.011 [0.0004, 0.022]**"
    found = difference_text(Estimate(-0.011, (-0.022, -0.0004)), number)
    assert found == "**-0.011 [-0.022, -0.0004]**"
    assert difference_text(Estimate(0.011, (-0.0004, 0.022)), number) == "0.011 [0.000, 0.022]"
    found = difference_text(Estimate(0.05, (0.002, 0.1)), percent)
    assert found == "**5 points [0.2, 10]**"


def test_shares_have_percent_and_their_differences_points():
    assert value_text(Estimate(0.21, (0.12, 0.3)), percent) == "21 % [12, 30]"
    assert difference_text(Estimate(0.21, (-0.12, 0.3)), percent) == "21 points [-12, 30]"
    assert difference_text(Estimate(0.21, None), percent) == "21 points"
    assert difference_text(None, percent) == value_text(None, percent) == ""


@pytest.mark.parametrize(
    ("value", "expected"), [(-0.0004, "0.000"), (-0.01, "-0.010"), (0, "0.000")]
)
def test_zero_has_no_sign(value, expected):
    assert exact_number("energy_distance", value) == expected
    assert image_metric("image_reward").value_text(value) == expected
    assert image_metric("image_reward").interval_text(value, 1) == f"{expected} to 1.000"
