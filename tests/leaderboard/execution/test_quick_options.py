"""Quick leaderboards refuse what they would ignore."""

from functools import partial

import pytest

from limbeck.leaderboard.assets.protocol import AssetLeaderboard
from limbeck.leaderboard.edits.protocol import EditLeaderboard
from limbeck.leaderboard.exact_priors.protocol import ExactLeaderboard
from limbeck.leaderboard.execution.quick_options import notify_lowered
from limbeck.leaderboard.images.protocol import Leaderboard
from limbeck.system.notices import collect_notices, display_notices


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


def test_a_given_value_that_is_lowered_draws_a_notice():
    def lowered(board, *argv):
        with display_notices(lambda text: None), collect_notices() as notices:
            notify_lowered(board, argv)
        return notices

    quick = Leaderboard(quick=True)
    assert lowered(quick, "--quick", "--passes", "600", "--seed=0", "--num-prompts", "8") == [
        "passes 600 has no effect with the other options: it is 300"
    ]
    assert lowered(quick, "--quick") == []
    few = Leaderboard(num_prompts=4, diverse_prompts=100)
    assert lowered(few, "--num-prompts=4", "--diverse-prompts=100") == [
        "diverse_prompts 100 has no effect with the other options: it is 4"
    ]
