"""What a field is before it is trained: a raw density that is added to what it learns, as a function of the place."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DensityInit(abc.ABC):
    """Raw density around the origin; lengths in units of space."""

    @abc.abstractmethod
    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """tau_init of points of the world, to be added before the activation."""


def _positive(**lengths: float) -> None:
    for name, length in lengths.items():
        if length <= 0:
            raise ValueError(f"{name} is a length above 0, not {length}")


@dataclass(frozen=True)
class NoDensityInit(DensityInit):
    """No density of its own."""

    name = "none"

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return torch.zeros_like(points[:, 0])


@dataclass(frozen=True)
class GaussianDensityInit(DensityInit):
    """height exp(-|mu|^2 / (2 width^2)) (DreamFusion, arXiv 2209.14988, appendix A).

    height: lambda, at the origin (5). width: sigma (.2).
    """

    height: float = 5.0
    width: float = 0.2

    def __post_init__(self) -> None:
        _positive(width=self.width)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return self.height * torch.exp(points.square().sum(1) / (-2 * self.width**2))


@dataclass(frozen=True)
class Magic3DDensityInit(DensityInit):
    """height (1 - |mu| / radius) (Magic3D, arXiv 2211.10440; ProlificDreamer, arXiv 2305.16213, for objects).

    height: lambda, at the origin (10). radius: r, where it is 0 (.5); beyond, it falls on below 0.
    """

    height: float = 10.0
    radius: float = 0.5

    def __post_init__(self) -> None:
        _positive(radius=self.radius)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return self.height * (1 - points.norm(dim=1) / self.radius)


@dataclass(frozen=True)
class SceneDensityInit(DensityInit):
    """The same upside down: empty around the origin, where the cameras are, and dense beyond a radius (ProlificDreamer).

    height: lambda, below 0 (-10). radius: r (2.5).
    """

    height: float = -10.0
    radius: float = 2.5

    def __post_init__(self) -> None:
        _positive(radius=self.radius)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return self.height * (1 - points.norm(dim=1) / self.radius)


@dataclass(frozen=True)
class MixedDensityInit(DensityInit):
    """An object amid a scene: the one near the origin, the other beyond ``border``, where both are the same (ProlificDreamer: 5/6).

    height, radius: of the object, as in magic3d. scene_height, scene_radius: of the scene.
    """

    height: float = 10.0
    radius: float = 0.5
    scene_height: float = -10.0
    scene_radius: float = 2.5

    def __post_init__(self) -> None:
        _positive(radius=self.radius, scene_radius=self.scene_radius)
        if self.height <= 0 or self.scene_height >= 0:
            raise ValueError(
                f"an object has a height above 0 and a scene one below, not {self.height} and {self.scene_height}"
            )

    @property
    def border(self) -> float:
        """Where the two lines cross: h (1 - x / r) = H (1 - x / R)."""
        return (self.height - self.scene_height) / (
            self.height / self.radius - self.scene_height / self.scene_radius
        )

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        thing, around = (
            Magic3DDensityInit(self.height, self.radius),
            SceneDensityInit(self.scene_height, self.scene_radius),
        )
        return torch.where(points.norm(dim=1) < self.border, thing(points), around(points))
