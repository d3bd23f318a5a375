"""Experiments as text and as command lines; components found by name."""
