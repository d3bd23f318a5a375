"""Rasterization, Gaussian splatting, volume rendering and shading."""
