"""What is known of points: one file each, found by name."""

from limbeck.encodings.frequencies import Frequencies
from limbeck.encodings.grid import Grid
from limbeck.encodings.hashed import Hashed
from limbeck.encodings.planes import Planes

__all__ = ["Frequencies", "Grid", "Hashed", "Planes"]
