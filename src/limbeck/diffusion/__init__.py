"""Diffusion models as algebra: schedules, predictions, conditions, guidance, sampling."""
