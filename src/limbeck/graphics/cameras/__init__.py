"""Cameras and camera samplers."""
