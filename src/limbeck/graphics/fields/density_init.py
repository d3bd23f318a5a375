"""Density initializations: a fixed function of position, added to a field's raw density."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DensityInit(abc.ABC):
    """Options of a density initialization around the origin."""

    @abc.abstractmethod
    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Raw density of world points, added before the activation."""


def _check_positive(**lengths: float) -> None:
    for name, length in lengths.items():
        if length <= 0:
            raise ValueError(f"{name} must be positive, not {length}")


@dataclass(frozen=True)
class NoDensityInit(DensityInit):
    """Zero raw density."""

    name = "none"

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return torch.zeros_like(points[:, 0])


@dataclass(frozen=True)
class GaussianDensityInit(DensityInit):
    """scale exp(-|x|^2 / (2 std^2)), the density blob of DreamFusion.

    Attributes:
        scale: raw density at the origin (DreamFusion: 5).
        std: standard deviation, in units of world space (DreamFusion: 0.2).

    References:
        Poole et al., DreamFusion, arXiv 2209.14988, appendix A.
    """

    scale: float = 5.0
    std: float = 0.2

    def __post_init__(self) -> None:
        _check_positive(std=self.std)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return self.scale * torch.exp(points.square().sum(1) / (-2 * self.std**2))


@dataclass(frozen=True)
class Magic3DDensityInit(DensityInit):
    """scale (1 - |x| / radius), the density blob of Magic3D; ProlificDreamer uses it for objects.

    Attributes:
        scale: raw density at the origin (10).
        radius: distance at which the raw density is 0 (0.5); it keeps falling beyond.

    References:
        Lin et al., Magic3D, arXiv 2211.10440. Wang et al., ProlificDreamer, arXiv 2305.16213.
    """

    scale: float = 10.0
    radius: float = 0.5

    def __post_init__(self) -> None:
        _check_positive(radius=self.radius)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return self.scale * (1 - points.norm(dim=1) / self.radius)


@dataclass(frozen=True)
class SceneDensityInit(DensityInit):
    """The linear blob upside down: empty around the cameras, dense beyond a radius.

    Attributes:
        scale: raw density at the origin, negative (ProlificDreamer: -10).
        radius: distance at which the raw density is 0 (ProlificDreamer: 2.5).
    """

    scale: float = -10.0
    radius: float = 2.5

    def __post_init__(self) -> None:
        _check_positive(radius=self.radius)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return self.scale * (1 - points.norm(dim=1) / self.radius)


@dataclass(frozen=True)
class MixedDensityInit(DensityInit):
    """An object in a scene: the object's blob near the origin, the scene's beyond it.

    The two meet at ``boundary_radius``, where they are equal (ProlificDreamer: 5/6).

    Attributes:
        object_scale: raw density of the object at the origin, positive.
        object_radius: distance at which the object's raw density is 0.
        scene_scale: raw density of the scene at the origin, negative.
        scene_radius: distance at which the scene's raw density is 0.
    """

    object_scale: float = 10.0
    object_radius: float = 0.5
    scene_scale: float = -10.0
    scene_radius: float = 2.5

    def __post_init__(self) -> None:
        _check_positive(object_radius=self.object_radius, scene_radius=self.scene_radius)
        if self.object_scale <= 0 or self.scene_scale >= 0:
            raise ValueError(
                "object_scale must be positive and scene_scale negative, "
                f"not {self.object_scale} and {self.scene_scale}"
            )

    @property
    def boundary_radius(self) -> float:
        """Distance x at which h (1 - x / r) = H (1 - x / R)."""
        slope = self.object_scale / self.object_radius - self.scene_scale / self.scene_radius
        return (self.object_scale - self.scene_scale) / slope

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        near = Magic3DDensityInit(self.object_scale, self.object_radius)
        far = SceneDensityInit(self.scene_scale, self.scene_radius)
        inside = points.norm(dim=1) < self.boundary_radius
        return torch.where(inside, near(points), far(points))
