"""Meshes, tetrahedra and point sets."""
