"""Noise schedules, predictions, conditions, guidance and sampling of diffusion models."""
