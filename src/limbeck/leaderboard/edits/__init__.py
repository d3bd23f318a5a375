"""The leaderboard of editing methods, on rendered pairs of the embedded world."""
