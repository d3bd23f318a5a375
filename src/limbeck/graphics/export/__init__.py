"""Mesh and Gaussian files for other programs."""
