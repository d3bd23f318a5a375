"""Options of a reference: an image of the object, which a 3D run reproduces from its camera."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch

from limbeck.config.discovery import component_name
from limbeck.graphics.cameras.camera import Camera, orbit_cameras
from limbeck.graphics.cameras.samplers import CameraSampler, ShellCameras
from limbeck.representations.base import RepresentationConfig
from limbeck.training.reference_images import ObjectImages, read_reference_images

_OF_SHAPE = ("mask_weight", "depth_weight")  #: weights of losses of the shape alone
_NOT_NEGATIVE = ("color_weight", "mask_weight", "depth_weight", "normal_weight")


@dataclass(frozen=True)
class ImageReference:
    """An image of the object, which every step of a 3D run compares with the render.

    The losses are added to that of the method, for each particle. A weight of 5,000 of the colors
    beside an unweighted method is that of Zero123's recipe, which has 500 beside 0.1.

    Attributes:
        image: image file of the object, cut out (transparent around it) or on a white background.
            None: there is no reference.
        depth: image file of its depth, white is far; of the same framing as ``image``.
        normal: image file of its normals in the space of the camera, (n + 1) / 2 as RGB with x to
            the right, y up and z towards the camera; of the same framing as ``image``.
        camera: azimuth and elevation in degrees, distance and vertical field of view in degrees of
            its camera. A distance or field of view of 0 takes the middle of the range of the
            cameras.
        object_size: longer side of the object as a fraction of the image, to which it is scaled and
            centered. 0: the framing of the file.
        resolution_scale: height of its render over that of the other views of the step.
        group_prob: for a model of several views that was trained to be given one of them (`limbeck
            train-world --multi-view`): probability that a group of views has the image as its
            first, clean and without gradient, and the other views of the group the camera of the
            image, turned around the object. Other models do not see the image. 0: nor does this.
        color_weight: weight of the mean square error of the colors; not used where renders show
            none, as in a geometry stage.
        mask_weight: weight of the mean square error of the opacity; without effect where the shape
            is not optimized.
        depth_weight: weight of the depth loss; without ``depth`` it has no effect.
        normal_weight: weight of 1 - cosine of the normals; without ``normal`` it has no effect.
        depth_loss: scale-shift: mean square error after the scale and the shift that fit best.
            correlation: 1 - Pearson correlation.
        depth_kind: depth: white is far. disparity: white is near, as estimators of depth write it;
            compared with the reciprocal depth.
    """

    image: Path | None = None
    depth: Path | None = None
    normal: Path | None = None
    camera: tuple[float, float, float, float] = (0.0, 5.0, 0.0, 0.0)
    object_size: float = field(default=0.7, metadata={"minimum": 0, "maximum": 1})
    resolution_scale: int = field(default=1, metadata={"minimum": 1, "maximum": 8})
    group_prob: float = field(default=0.5, metadata={"minimum": 0, "maximum": 1})
    color_weight: float = 5000.0
    mask_weight: float = 500.0
    depth_weight: float = 0.0
    normal_weight: float = 0.0
    depth_loss: Literal["scale-shift", "correlation"] = "scale-shift"
    depth_kind: Literal["depth", "disparity"] = "depth"

    def __post_init__(self) -> None:
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(
                    f"reference.{name} must not be negative, not {getattr(self, name)}"
                )
        _, elevation, distance, fov = self.camera
        if not (-90 <= elevation <= 90 and distance >= 0 and (fov == 0 or 1 <= fov <= 170)):
            raise ValueError(
                "reference.camera takes an azimuth, an elevation in [-90, 90], a distance of at "
                f"least 0 and a field of view of 0 or in [1, 170], not {self.camera}"
            )
        for name in ("depth", "normal"):
            if self.image is None and getattr(self, name) is not None:
                raise ValueError(f"reference.{name} belongs to an image: give --reference.image")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are given."""
        return tuple(path for path in (self.image, self.depth, self.normal) if path is not None)

    def check_effect(self) -> None:
        """Refuse what has no effect.

        Raises:
            ValueError: if there are options but no image, a map of weight 0, or a weight without
                its map.
        """
        if self.image is None:
            changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if changed:
                raise ValueError(
                    f"reference.{changed[0]} has no effect without an image of the object: give "
                    "--image FILE"
                )
        for name in ("depth", "normal"):
            path, weight = getattr(self, name), getattr(self, f"{name}_weight")
            if path is not None and not weight:
                raise ValueError(
                    f"reference.{name} {path} has no effect with the weight 0: give "
                    f"--reference.{name}-weight a number above 0, or leave the file out"
                )
            if path is None and weight and self.image is not None:
                raise ValueError(
                    f"reference.{name}_weight {weight} has no effect without its file: give "
                    f"--reference.{name} FILE, or leave the weight out"
                )

    def check_effect_on(self, representation: RepresentationConfig) -> None:
        """Refuse a loss that was asked for and compares what a representation does not optimize.

        Args:
            representation: options of the representation of the run.

        Raises:
            ValueError: if there is one.
        """
        if self.image is None:
            return
        missing = {} if representation.optimizes_shape else dict.fromkeys(_OF_SHAPE, "shape")
        if not representation.optimizes_normals:
            missing["normal_weight"] = "normals"
        for name, what in missing.items():
            weight = getattr(self, name)
            if weight and weight != ImageReference.__dataclass_fields__[name].default:
                raise ValueError(
                    f"reference.{name} {weight:g} has no effect, because the representation "
                    f"{component_name(type(representation))} does not optimize its {what} here: "
                    "leave it out"
                )

    def read_images(self) -> ObjectImages | None:
        """Read the files; None if there is no reference.

        Raises:
            ValueError: if one cannot be read or used, or an option has no effect.
        """
        self.check_effect()
        if self.image is None:
            return None
        return read_reference_images(self.image, self.depth, self.normal, self.object_size)

    def camera_among(self, cameras: CameraSampler) -> Camera:
        """Return the camera of the image.

        Args:
            cameras: the cameras of the run, of whose ranges it takes what it leaves open.

        Raises:
            ValueError: if it leaves something open and the cameras have no ranges.
        """
        azimuth, elevation, distance, fov = self.camera
        if isinstance(cameras, ShellCameras):
            fov = fov or cameras.middle_fovy
            distance = distance or cameras.middle_distance(fov)
        if not (distance and fov):
            raise ValueError(
                "reference.camera needs a distance and a field of view: these cameras have no "
                "ranges to take them from"
            )
        angles = torch.tensor([azimuth, elevation]).deg2rad()
        return orbit_cameras(angles[:1], angles[1:], distance, fov)
