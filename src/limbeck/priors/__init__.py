"""Frozen models: exact ones in closed form and learned ones from diffusers."""
