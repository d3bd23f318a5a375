"""Limbeck: a laboratory for score distillation."""

__version__ = "0.1.0"
