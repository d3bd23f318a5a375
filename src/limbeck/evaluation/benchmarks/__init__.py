"""Folders of 3D assets in the layouts that benchmarks of others read."""
