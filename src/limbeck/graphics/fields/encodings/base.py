"""Encodings: features of points, from grids, planes, hash tables or frequencies."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class EncodingModule(nn.Module, abc.ABC):
    """The encoding of one particle; ``num_features`` is the number of features of a point."""

    num_features: int

    @abc.abstractmethod
    def forward(self, points: Float[Tensor, "n 3"], progress: float) -> Float[Tensor, "n f"]:
        """Features of points.

        Args:
            points: points in [-1, 1]^3; points outside are clamped to the box.
            progress: fraction of training that is done, for coarse-to-fine schedules.
        """

    def total_variation(self) -> Float[Tensor, ""]:
        """Mean squared difference of neighboring features; 0 if features have no neighbors."""
        return torch.zeros(())


@dataclass(frozen=True)
class Encoding(abc.ABC):
    """Options of an encoding.

    Attributes:
        lr_scale: learning rate of the encoding's parameters, relative to the field's.
    """

    lr_scale: float = field(default=1.0, kw_only=True, metadata={"minimum": 0})

    @abc.abstractmethod
    def build(self, generator: torch.Generator) -> EncodingModule:
        """Build the module on the CPU, with parameters drawn from the generator."""


class _MeanSquaredDifference(torch.autograd.Function):
    """Sum over axes of the mean squared difference of neighbors, with its gradient in one pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, axes: tuple[int, ...]) -> Float[Tensor, ""]:
        total, gradient = values.new_zeros(()), torch.zeros_like(values)
        for axis in axes:
            step = values.diff(dim=axis)
            scale = 1 / step.numel()
            total += scale * torch.dot(step.flatten(), step.flatten())
            step *= 2 * scale
            gradient.narrow(axis, 1, step.shape[axis]).add_(step)
            gradient.narrow(axis, 0, step.shape[axis]).sub_(step)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, ""]) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grad, None


def mean_squared_difference(
    values: Float[Tensor, "..."], axes: tuple[int, ...]
) -> Float[Tensor, ""]:
    """Mean squared difference of neighbors along an axis, summed over axes.

    Args:
        values: features on a grid.
        axes: axes of the grid, each with at least two points.
    """
    return _MeanSquaredDifference.apply(values, axes)


def check_grid_options(
    resolutions: tuple[int, ...], features_per_level: int, init_std: float
) -> None:
    """Check the options that dense grids and triplanes share.

    Args:
        resolutions: points along a side, per level.
        features_per_level: features of a grid point.
        init_std: standard deviation of the initial features.

    Raises:
        ValueError: if an option is out of range.
    """
    if not resolutions or min(resolutions) < 2:
        raise ValueError(f"resolutions takes one or more sizes of at least 2, not {resolutions}")
    if features_per_level < 1:
        raise ValueError(f"features_per_level must be at least 1, not {features_per_level}")
    if init_std < 0:
        raise ValueError(f"init_std must not be negative, not {init_std}")
