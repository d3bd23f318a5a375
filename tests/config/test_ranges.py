"""Ranges of numbers: the first that is outside is named with its value."""

import math
from types import SimpleNamespace

import pytest

from limbeck.config.ranges import check_minimums, check_not_negative, check_positive

OPTIONS = SimpleNamespace(steps=0, lr=-0.5, share=math.nan)


def test_numbers_within_their_range_pass():
    check_minimums(OPTIONS, steps=0, lr=-0.5)
    check_positive(SimpleNamespace(lr=1e-9), "lr")
    check_not_negative(OPTIONS, "steps")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_minimums(OPTIONS, lr=-1, steps=1), "steps must be at least 1, not 0"),
        (lambda: check_minimums(OPTIONS, share=0), "share must be at least 0, not nan"),
        (lambda: check_positive(OPTIONS, "steps", "lr"), "steps must be positive, not 0"),
        (lambda: check_positive(OPTIONS, "share"), "share must be positive, not nan"),
        (lambda: check_not_negative(OPTIONS, "steps", "lr"), "lr must not be negative, not -0.5"),
    ],
)
def test_the_first_number_outside_is_named(check, message):
    with pytest.raises(ValueError, match=message):
        check()
