"""Experiments and the training loop."""
