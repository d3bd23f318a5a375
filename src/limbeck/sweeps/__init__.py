"""Sweeps: many runs that differ in options, each in its own process and run folder."""
