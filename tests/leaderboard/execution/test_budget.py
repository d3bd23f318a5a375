"""Network passes of a step."""

import pytest

from limbeck.leaderboard.execution.budget import passes_per_step
from limbeck.system.notices import Notice
from limbeck.training.network_calls import NetworkCalls


def test_a_method_without_network_calls_is_said():
    with pytest.warns(Notice, match=r"a step of mine.py:Mine never calls the network, so that it"):
        assert passes_per_step("mine.py:Mine", NetworkCalls((0, 0), (0, 0), (0, 0))) == 1
    assert passes_per_step("sds", NetworkCalls((1, 1), (2, 2), (1, 1))) == 5
