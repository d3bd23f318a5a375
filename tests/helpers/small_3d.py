"""Every 3D representation, small."""

from __future__ import annotations

from pathlib import Path

from own_meshes import mapped_box

from limbeck.config.discovery import choices
from limbeck.representations.base import RepresentationConfig

_OPTIONS = {
    "num_gaussians": 12,
    "samples": 12,
    "occupancy_resolution": 8,
    "grid_resolution": 8,
    "resolution": 8,
    "init_steps": 0,
}


def small_3d(name: str, folder: Path) -> RepresentationConfig:
    """A 3D representation by name; a mesh is a box that is written into the folder."""
    cls = choices(RepresentationConfig)[name]
    given = cls.__dataclass_fields__
    options = {
        k: v for k, v in _OPTIONS.items() if k in given and isinstance(given[k].default, int)
    }
    if name == "paths":
        options.pop("init_steps")  # those of an image
    if name == "mesh":
        options["from_"] = folder / "box.glb"
        mapped_box().export(options["from_"])
    return cls(**options)
