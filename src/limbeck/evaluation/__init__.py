"""Evaluation of finished 3D runs."""
