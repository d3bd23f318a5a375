"""Encodings of points in space, one file each."""
