"""Settings that leaderboards try."""

import numpy as np
import pytest

from limbeck.leaderboard.execution.tuning import rounded_lr


@pytest.mark.parametrize("lrs", [(0.02, 0.1), (0.05, 0.1), (0.1, 3.0), (0.01, 0.03)])
def test_learning_rates_of_published_tables_are_those_of_before(lrs):
    for lr in np.geomspace(min(lrs) / 2, 2 * max(lrs), 6):
        assert rounded_lr(lr) == float(round(lr, 4))


def test_small_learning_rates_are_not_zero():
    assert rounded_lr(0.00000512) == 0.0000051
