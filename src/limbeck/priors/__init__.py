"""Frozen models: exact ones in closed form and learned ones from diffusers."""

from limbeck.priors.exact import DataSet, GaussianMixture

__all__ = ["DataSet", "GaussianMixture"]
