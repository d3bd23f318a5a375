"""Camera samplers: which cameras render a step, and which view-dependent prompts go with them."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera, look_at, turntable_cameras, unit_direction
from limbeck.graphics.cameras.perp_neg import (
    PerpNegRule,
    stable_dreamfusion_weights,
    threestudio_weights,
)
from limbeck.system.random import RowRandom

ORBIT_VIEWS = ("front", "side", "back", "overhead")  #: order of the prompts of an orbit


@dataclass(frozen=True)
class CameraSampler(abc.ABC):
    """Options of a camera sampler.

    Attributes:
        per_particle: views rendered of each particle in a step; the particle receives the mean of
            their gradients.
    """

    per_particle: int = 1

    @property
    def has_perp_neg(self) -> bool:
        """Whether the prompts of other views are negative prompts of Perp-Neg."""
        return False

    @property
    def group_size(self) -> int:
        """Views of a particle that form a group, in which draws may be shared; 1: no groups."""
        return 1

    def __post_init__(self) -> None:
        if self.per_particle < 1:
            raise ValueError(f"per_particle must be at least 1, not {self.per_particle}")

    @abc.abstractmethod
    def sample(self, count: int, rng: RowRandom) -> Camera | None:
        """Sample one camera per row of a step; None for 2D representations."""

    @property
    def interpolates_prompts(self) -> bool:
        """Whether a row may mix two view-dependent prompts."""
        return False

    def eval_cameras(self, count: int) -> Camera | None:
        """``count`` evaluation cameras, the same in every run."""
        return None

    def prompts_by_view(self, prompt: str) -> tuple[str, ...]:
        """View-dependent variants of ``prompt``, one per named view."""
        return (prompt,)

    def view_weights(self, camera: Camera | None, count: int) -> Float[Tensor, "b s"]:
        """Weights of the view-dependent prompts for each row.

        Args:
            camera: cameras of the rows.
            count: number of rows.

        Returns:
            ``[B, S]`` with one column per prompt of ``prompts_by_view``; each row sums to 1.
        """
        return torch.ones(count, 1)

    def perp_neg_weights(
        self, camera: Camera | None
    ) -> tuple[tuple[Tensor, Float[Tensor, "b"]], ...]:
        """Negative view-dependent prompts of Perp-Neg.

        Returns:
            One pair per negative prompt: ``[B]`` indices into ``prompts_by_view`` and ``[B]``
            weights.
        """
        return ()


@dataclass(frozen=True)
class NoCamera(CameraSampler):
    """No cameras: the representation is 2D.

    Attributes:
        per_particle: number of rows of each particle in a step.
    """

    name = "none"

    def sample(self, count: int, rng: RowRandom) -> None:
        return None


def check_bounds(name: str, low: float, high: float, minimum: float, maximum: float) -> None:
    """Check that minimum <= low <= high <= maximum.

    Args:
        name: option name for the message.
        low: lower bound given by the user.
        high: upper bound given by the user.
        minimum: smallest accepted value.
        maximum: largest accepted value.

    Raises:
        ValueError: if the bounds are not in order or out of range.
    """
    if not minimum <= low <= high <= maximum:
        raise ValueError(
            f"{name} takes a lower and an upper bound in [{minimum:g}, {maximum:g}], "
            f"not {low:g} {high:g}"
        )


@dataclass(frozen=True)
class ShellCameras(CameraSampler):
    """Cameras on a spherical shell around the origin, with a prompt for each side.

    Attributes:
        per_particle: views rendered of each particle in a step; the particle receives the mean of
            their gradients.
        camera_distance_range: bounds of the uniform distance from the origin.
        fovy_range: bounds of the uniform vertical field of view, in degrees.
        elevation_range: bounds of the elevation, in degrees.
        uniform_sphere_prob: probability that a view samples its elevation uniformly over the area
            of the sphere; otherwise uniformly over the angle, which visits the poles more often
            (DreamFusion: 0.5).
        eval_camera: elevation in degrees, distance and vertical field of view in degrees of the
            evaluation cameras; a distance or field of view of 0 takes the middle of its range.
        view_prompts: texts appended to the prompt for front, side, back and overhead views; an
            empty text appends nothing.
        front_threshold: half-width in degrees of the front sector of azimuths, and of the back
            sector.
        overhead_threshold: elevation in degrees from which a view counts as overhead.
        blend_prompts: interpolate between the prompts of the two nearest views; otherwise the
            nearest view's prompt is used.
        perp_neg: Perp-Neg weight on the prompts of the other views, which costs two more network
            evaluations. 0 disables it.
        perp_neg_rule: how the weight depends on the view. constant: the same on both other views.
            stable-dreamfusion and threestudio: on front and side by the azimuth, with the prompt
            interpolated as by ``blend_prompts``; ``perp_neg`` is 2 and 1 there.
    """

    camera_distance_range: tuple[float, float] = (3.4, 3.8)
    fovy_range: tuple[float, float] = (40.0, 40.0)
    elevation_range: tuple[float, float] = (-10.0, 60.0)
    uniform_sphere_prob: float = 0.5
    eval_camera: tuple[float, float, float] = (15.0, 0.0, 0.0)
    view_prompts: tuple[str, str, str, str] = (
        "front view",
        "side view",
        "back view",
        "overhead view",
    )
    front_threshold: float = 45.0
    overhead_threshold: float = 60.0
    blend_prompts: bool = False
    perp_neg: float = 0.0
    perp_neg_rule: PerpNegRule = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("camera_distance_range", *self.camera_distance_range, 1e-3, math.inf)
        check_bounds("fovy_range", *self.fovy_range, 1, 170)
        check_bounds("elevation_range", *self.elevation_range, -90, 90)
        elevation, distance, fov = self.eval_camera
        if not (-90 <= elevation <= 90 and distance >= 0 and (fov == 0 or 1 <= fov <= 170)):
            raise ValueError(
                "eval_camera takes an elevation in [-90, 90], a distance of at least 0 and a field "
                f"of view of 0 or in [1, 170], not {self.eval_camera}"
            )
        if not 0.5 <= self.front_threshold <= 89.5:
            raise ValueError(f"front_threshold must be in [0.5, 89.5], not {self.front_threshold}")
        if not 0 <= self.uniform_sphere_prob <= 1:
            raise ValueError(
                f"uniform_sphere_prob must be in [0, 1], not {self.uniform_sphere_prob}"
            )
        if self.perp_neg < 0:
            raise ValueError(f"perp_neg must not be negative, not {self.perp_neg}")
        if self.perp_neg_rule not in get_args(PerpNegRule):
            accepted = ", ".join(get_args(PerpNegRule))
            raise ValueError(f"perp_neg_rule must be one of {accepted}, not {self.perp_neg_rule!r}")
        if self.perp_neg_rule != "constant" and not self.perp_neg:
            raise ValueError(
                f"perp_neg_rule {self.perp_neg_rule} has no effect at perp_neg 0: give its weight "
                "with --cameras.perp-neg"
            )

    def _sample_elevation(self, rng: RowRandom) -> Float[Tensor, "b"]:
        """Elevations in radians."""
        low, high = (math.radians(angle) for angle in self.elevation_range)
        u = rng.uniform("elevation")
        over_area = rng.uniform("over area") < self.uniform_sphere_prob
        sine = math.sin(low) + u * (math.sin(high) - math.sin(low))
        return torch.where(over_area, sine.clamp(-1, 1).asin(), low + u * (high - low))

    @property
    def has_perp_neg(self) -> bool:
        return self.perp_neg > 0

    @property
    def interpolates_prompts(self) -> bool:
        return self.blend_prompts or self.perp_neg_rule != "constant"

    @property
    def resolved_eval_camera(self) -> tuple[float, float, float]:
        """``eval_camera`` with its zeros replaced by the middle of their ranges."""
        elevation, distance, fov = self.eval_camera
        fov = fov or self.middle_fovy
        return elevation, distance or self.middle_distance(fov), fov

    @property
    def middle_fovy(self) -> float:
        """Middle of the range of the vertical field of view, in degrees."""
        return sum(self.fovy_range) / 2

    def middle_distance(self, fovy: float) -> float:
        """Return the middle of the range of the distance, in world units.

        Args:
            fovy: vertical field of view in degrees, on which a relative distance depends.
        """
        return sum(self.camera_distance_range) / 2

    def eval_cameras(self, count: int) -> Camera:
        return turntable_cameras(count, *self.resolved_eval_camera)

    def prompts_by_view(self, prompt: str) -> tuple[str, ...]:
        return tuple(f"{prompt}, {text}" if text else prompt for text in self.view_prompts)

    def view_weights(self, camera: Camera | None, count: int) -> Float[Tensor, "b s"]:
        if camera is None:
            raise ValueError(
                "a view prompt needs the cameras of the rows, which tell the view of each"
            )
        degrees_from_front = camera.azimuth.abs() * (180 / math.pi)
        overhead = (camera.elevation * (180 / math.pi) >= self.overhead_threshold)[:, None]
        if self.interpolates_prompts:
            weights = _blended_view_weights(degrees_from_front)
        else:
            past_front = (degrees_from_front > self.front_threshold).long()
            past_side = (degrees_from_front > 180 - self.front_threshold).long()
            weights = torch.nn.functional.one_hot(past_front + past_side, 4).float()
        return torch.where(overhead, torch.tensor([0.0, 0.0, 0.0, 1.0]).to(weights), weights)

    def perp_neg_weights(
        self, camera: Camera | None
    ) -> tuple[tuple[Tensor, Float[Tensor, "b"]], ...]:
        if not self.perp_neg or camera is None:
            return ()
        nearest = self.view_weights(camera, len(camera)).argmax(1)
        weight = torch.where(nearest == 3, 0.0, self.perp_neg)
        if self.perp_neg_rule != "constant":
            by_name = {
                "stable-dreamfusion": stable_dreamfusion_weights,
                "threestudio": threestudio_weights,
            }
            front, side = by_name[self.perp_neg_rule](camera.azimuth.abs() * (180 / math.pi))
            rows = torch.zeros_like(nearest)
            return (rows, weight * front), (rows + 1, weight * side)
        return tuple(((nearest + k) % 3, weight) for k in (1, 2))


@dataclass(frozen=True)
class Orbit(ShellCameras):
    """Random cameras on a spherical shell around the origin, as in threestudio.

    Attributes:
        batch_uniform_azimuth: stratify the azimuths of the views of a particle, one per equal
            sector; the first sector starts at a random angle.
        camera_perturb: half-width of the uniform perturbation of the camera position.
        center_perturb: standard deviation of the normal perturbation of the look-at point.
        up_perturb: standard deviation of the normal perturbation of the up vector.
    """

    batch_uniform_azimuth: bool = True
    camera_perturb: float = 0.0
    center_perturb: float = 0.0
    up_perturb: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("camera_perturb", "center_perturb", "up_perturb"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")

    def sample(self, count: int, rng: RowRandom) -> Camera:
        elevation = self._sample_elevation(rng)
        azimuth = self._sample_azimuth(rng)
        distance = _uniform("distance", self.camera_distance_range, rng)
        fov = _uniform("fovy", self.fovy_range, rng)
        eye = unit_direction(azimuth, elevation) * distance[:, None]
        if self.camera_perturb:
            eye = eye + self.camera_perturb * (2 * rng.uniform("camera", 3) - 1)
        at = torch.zeros_like(eye)
        if self.center_perturb:
            at = self.center_perturb * rng.normal("center", 3)
        up = None
        if self.up_perturb:
            tilt = self.up_perturb * rng.normal("up", 3)
            up = torch.tensor([0.0, 1.0, 0.0]) + tilt
        return look_at(eye, at, fov * (math.pi / 180), up)

    def _sample_azimuth(self, rng: RowRandom) -> Float[Tensor, "b"]:
        """Azimuths in radians."""
        if not self.batch_uniform_azimuth:
            return 2 * math.pi * rng.uniform("azimuth")
        turns = (rng.view + rng.uniform("azimuth")) / self.per_particle
        return 2 * math.pi * (turns + rng.per_particle.uniform("azimuth"))


@dataclass(frozen=True)
class Around(ShellCameras):
    """Groups of cameras at equal angles around the object, as in MVDream.

    The views of a group have one elevation, one distance and one field of view, and azimuths
    360 / views degrees apart from a random one on. Groups are drawn independently.

    Attributes:
        per_particle: views rendered of each particle in a step, a multiple of ``views``; the
            particle receives the mean of their gradients.
        views: views in a group.
        relative_distance: count the distance in units of 1 / tan(fov / 2), at which an object has
            one size in the image at every field of view.
        eval_camera: elevation in degrees, distance and vertical field of view in degrees of the
            evaluation cameras; a distance or field of view of 0 takes the middle of its range. The
            distance is not a relative one.
    """

    per_particle: int = 4
    views: int = field(default=4, metadata={"minimum": 2})
    relative_distance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views < 2:
            raise ValueError(f"views must be at least 2, not {self.views}")
        if self.per_particle % self.views:
            raise ValueError(
                f"per_particle must be a multiple of the {self.views} views of a group, "
                f"not {self.per_particle}"
            )

    @property
    def group_size(self) -> int:
        return self.views

    def sample(self, count: int, rng: RowRandom) -> Camera:
        group = rng.per_group
        fov = _uniform("fovy", self.fovy_range, group) * (math.pi / 180)
        distance = _uniform("distance", self.camera_distance_range, group)
        if self.relative_distance:
            distance = distance / (fov / 2).tan()
        turns = (rng.view % self.views + group.uniform("azimuth")) / self.views
        direction = unit_direction(2 * math.pi * turns, self._sample_elevation(group))
        eye = direction * distance[:, None]
        return look_at(eye, torch.zeros_like(eye), fov)

    def middle_distance(self, fovy: float) -> float:
        distance = super().middle_distance(fovy)
        return distance / math.tan(math.radians(fovy) / 2) if self.relative_distance else distance


def _uniform(purpose: str, bounds: tuple[float, float], rng: RowRandom) -> Float[Tensor, "b"]:
    low, high = bounds
    return low + rng.uniform(purpose) * (high - low)


def _blended_view_weights(degrees_from_front: Float[Tensor, "b"]) -> Float[Tensor, "b 4"]:
    """Linear interpolation over the azimuth between front (0), side (90) and back (180 degrees)."""
    front = (1 - degrees_from_front / 90).clamp_min(0)
    back = (1 - (180 - degrees_from_front) / 90).clamp_min(0)
    return torch.stack([front, 1 - front - back, back, torch.zeros_like(front)], 1)
