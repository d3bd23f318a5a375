"""Quick leaderboards refuse what they would ignore."""

from functools import partial

import pytest

from limbeck.leaderboard.assets.protocol import AssetLeaderboard
from limbeck.leaderboard.edits.protocol import EditLeaderboard
from limbeck.leaderboard.exact_priors.protocol import ExactLeaderboard
from limbeck.leaderboard.images.protocol import Leaderboard


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Leaderboard, {"passes": 500}, "passes 500 has no effect with quick, .* at most 300"),
        (Leaderboard, {"num_prompts": 9}, "num_prompts 9 .* at most 8"),
        (EditLeaderboard, {"num_pairs": 20}, "num_pairs 20 .* at most 16"),
        (EditLeaderboard, {"tuning_pairs": 3}, "tuning_pairs has no effect with quick"),
        (EditLeaderboard, {"seeds": 4}, "seeds 4 .* at most 1"),
        (AssetLeaderboard, {"seeds": 3}, "seeds 3 .* at most 1"),
        (AssetLeaderboard, {"steps_scale": 0.5}, "steps_scale 0.5 .* at most 0.1"),
        (partial(ExactLeaderboard, "gaussians", "red disc"), {"seeds": 4}, "seeds 4 .* at most 3"),
    ],
)
def test_quick_refuses_more_than_it_takes(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(quick=True, **options)
    make(quick=True)
