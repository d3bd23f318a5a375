"""What is known of points: one file each, found by name."""

from limbeck.encodings.grid import Grid

__all__ = ["Grid"]
