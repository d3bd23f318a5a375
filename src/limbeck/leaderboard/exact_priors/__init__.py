"""The leaderboard of methods from noise on priors whose law is known exactly."""
