"""What leaderboards share before the table: folders, cells in files, workers, budgets, tuning."""
