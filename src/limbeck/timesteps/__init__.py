"""Choices of when: a class in a file of this folder is found by its name."""

from limbeck.timestep import Drawn, Planned, Timesteps
from limbeck.timesteps.drawn import ISM, LogitNormal, NStage, RandomDecay, RandomDown, Shifted, TwoStage, Uniform
from limbeck.timesteps.dreamtime import DreamTime
from limbeck.timesteps.planned import Fixed, HiFA, Linear, Piecewise, Polynomial, Quadratic, Stepping

__all__ = [
    "ISM", "Drawn", "DreamTime", "Fixed", "HiFA", "Linear", "LogitNormal", "NStage", "Piecewise", "Planned", "Polynomial",
    "Quadratic", "RandomDecay", "RandomDown", "Shifted", "Stepping", "Timesteps", "TwoStage", "Uniform",
]  # fmt: skip
