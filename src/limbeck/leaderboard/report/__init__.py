"""What leaderboards share in tables, pages and figures."""
