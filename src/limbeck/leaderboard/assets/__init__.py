"""The leaderboard of 3D recipes, whose runs are a sweep."""
