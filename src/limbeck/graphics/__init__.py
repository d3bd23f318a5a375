"""Differentiable graphics in plain PyTorch: cameras, fields, geometry, rendering, export."""
