"""From where things are looked at: not at all sides (pictures), or by cameras around them, with the words that say which side."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera, look_at, turntable_cameras, unit_direction


@dataclass(frozen=True)
class CameraSampler(abc.ABC):
    """How the particles drawn for a step are looked at, and what is said of it.

    each: views of every particle drawn; what it receives is their mean.
    """

    per_particle: int = 1

    def __post_init__(self) -> None:
        if self.per_particle < 1:
            raise ValueError(f"per_particle must be at least 1, not {self.per_particle}")

    @abc.abstractmethod
    def sample(self, count: int, rng: torch.Generator) -> Camera | None:
        """One camera per row of a step; None for what has no sides."""

    @property
    def interpolates_prompts(self) -> bool:
        """Whether a row may belong to two texts at once."""
        return False

    def eval_cameras(self, count: int) -> Camera | None:
        """``count`` cameras to look at results through, the same in every run."""
        return None

    def prompts_by_view(self, prompt: str) -> tuple[str, ...]:
        """What may be said of ``prompt``, one text per named side."""
        return (prompt,)

    def view_weights(self, camera: Camera | None, count: int) -> Float[Tensor, "b s"]:
        """How much of each of the texts belongs to each row; a row sums to one."""
        return torch.ones(count, 1)

    def perp_neg_weights(
        self, camera: Camera | None
    ) -> tuple[tuple[Tensor, Float[Tensor, "b"]], ...]:
        """Texts to keep away from sideways only (Perp-Neg): the places of texts ``[B]`` and their weights, one pair per text."""
        return ()


@dataclass(frozen=True)
class NoCamera(CameraSampler):
    """No cameras: the particle is the picture."""

    name = "none"

    def sample(self, count: int, rng: torch.Generator) -> None:
        return None


ORBIT_VIEWS = ("front", "side", "back", "overhead")  #: the order of the texts of an orbit


def check_bounds(name: str, low: float, high: float, least: float, most: float) -> None:
    """ValueError unless least <= low <= high <= most."""
    if not least <= low <= high <= most:
        raise ValueError(
            f"{name} takes a lower and an upper bound in [{least:g}, {most:g}], not {low:g} {high:g}"
        )


@dataclass(frozen=True)
class Orbit(CameraSampler):
    """Cameras on a shell around the origin. Angles in degrees, lengths in units of space.

    distance, fov, elevation: bounds of uniform draws; fov is vertical. over_area: share of rows whose elevation is uniform over the
    area of the sphere, the others' over the angle, which looks more often from the pole (DreamFusion: .5). stratified: one azimuth
    in each of as many equal sectors as there are views, those of a particle all around it, their start drawn anew. jitter: of the
    camera's place, uniform to each side. aim: deviation of the normal draw of what is looked at. roll: of the normal draw added to
    up. shown: elevation, distance and fov of the cameras results are looked at through; zeros for the middle of each draw. words:
    put behind the prompt for front, side, back and overhead; empty texts say nothing. front: width of the front sector, as wide as
    the back one. overhead: elevation above which a view is called so. blend: between the two nearest sides the texts are mixed,
    else the nearest is said. perpendicular: weight of Perp-Neg on the other sides' words; two passes more.
    """

    distance: tuple[float, float] = (3.4, 3.8)
    fov: tuple[float, float] = (40.0, 40.0)
    elevation: tuple[float, float] = (-10.0, 60.0)
    uniform_sphere_prob: float = 0.5
    stratified: bool = True
    camera_perturb: float = 0.0
    center_perturb: float = 0.0
    up_perturb: float = 0.0
    eval_camera: tuple[float, float, float] = (15.0, 0.0, 0.0)
    view_prompts: tuple[str, str, str, str] = (
        "front view",
        "side view",
        "back view",
        "overhead view",
    )
    front: float = 90.0
    overhead: float = 60.0
    blend: bool = False
    perp_neg: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("distance", *self.distance, 1e-3, math.inf)
        check_bounds("fov", *self.fov, 1, 170)
        check_bounds("elevation", *self.elevation, -90, 90)
        check_bounds("front", self.front, self.front, 1, 179)
        if not 0 <= self.uniform_sphere_prob <= 1:
            raise ValueError(f"uniform_sphere_prob is a share in [0, 1], not {self.uniform_sphere_prob}")
        for name in ("camera_perturb", "center_perturb", "up_perturb", "perp_neg"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")

    def sample(self, count: int, rng: torch.Generator) -> Camera:
        draw = lambda: torch.rand(count, generator=rng)  # noqa: E731
        low, high = (math.radians(angle) for angle in self.elevation)
        u, by_area = draw(), draw() < self.uniform_sphere_prob
        area = (math.sin(low) + u * (math.sin(high) - math.sin(low))).clamp(-1, 1).asin()
        elevation = torch.where(by_area, area, low + u * (high - low))
        turns = (self._sectors(count) + draw()) / count if self.stratified else draw()
        start = torch.rand(1, generator=rng) if self.stratified else 0.0
        azimuth = 2 * math.pi * (turns + start)
        distance, fov = (a + draw() * (b - a) for a, b in (self.distance, self.fov))
        normal = lambda: torch.randn(count, 3, generator=rng)  # noqa: E731
        eye = unit_direction(azimuth, elevation) * distance[:, None]
        if self.camera_perturb:
            eye = eye + self.camera_perturb * (2 * torch.rand(count, 3, generator=rng) - 1)
        at = self.center_perturb * normal() if self.center_perturb else torch.zeros_like(eye)
        up = torch.tensor([0.0, 1.0, 0.0]) + self.up_perturb * normal() if self.up_perturb else None
        return look_at(eye, at, fov * (math.pi / 180), up)

    def _sectors(self, count: int) -> Int[Tensor, "b"]:
        """0 to count - 1: the ``each`` rows of a particle go once around, beside those of the next."""
        row, each = torch.arange(count), self.per_particle if count % self.per_particle == 0 else 1
        return row % each * (count // each) + row // each

    @property
    def interpolates_prompts(self) -> bool:
        return self.blend

    @property
    def looked(self) -> tuple[float, float, float]:
        """Elevation, distance and fov that results are shown at."""
        elevation, distance, fov = self.eval_camera
        return elevation, distance or sum(self.distance) / 2, fov or sum(self.fov) / 2

    def eval_cameras(self, count: int) -> Camera:
        return turntable_cameras(count, *self.looked)

    def prompts_by_view(self, prompt: str) -> tuple[str, ...]:
        return tuple(f"{prompt}, {word}" if word else prompt for word in self.view_prompts)

    def view_weights(self, camera: Camera | None, count: int) -> Float[Tensor, "b s"]:
        if camera is None:
            raise ValueError("these views have sides: a camera is needed to tell which one is seen")
        from_front = camera.azimuth.abs() * (180 / math.pi)
        above = (camera.elevation * (180 / math.pi) >= self.overhead)[:, None]
        if self.blend:
            front, back = (
                (1 - angle / 90).clamp_min(0) for angle in (from_front, 180 - from_front)
            )
            around_it = torch.stack([front, 1 - front - back, back, torch.zeros_like(front)], 1)
        else:
            half = self.front / 2
            place = (from_front > half).long() + (from_front > 180 - half).long()
            around_it = torch.nn.functional.one_hot(place, 4).float()
        return torch.where(above, torch.tensor([0.0, 0.0, 0.0, 1.0]).to(around_it), around_it)

    def perp_neg_weights(
        self, camera: Camera | None
    ) -> tuple[tuple[Tensor, Float[Tensor, "b"]], ...]:
        if not self.perp_neg or camera is None:
            return ()
        near = self.view_weights(camera, len(camera)).argmax(1)
        weight = torch.where(near == 3, 0.0, self.perp_neg)
        return tuple(((near + k) % 3, weight) for k in (1, 2))
