"""Leaderboards: all methods of a kind on the same inputs and network passes, with intervals."""
