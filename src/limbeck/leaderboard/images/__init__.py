"""The leaderboard of images by methods from noise, on the embedded model."""
