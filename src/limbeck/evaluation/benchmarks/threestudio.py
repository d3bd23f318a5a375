"""Axes, cameras and renders of threestudio's test split, which benchmarks take as their input.

threestudio's world is right-handed with z up and the front towards +x. A camera looks along -z of
its own axes, with y up, in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.tensors import to_unit_range
from limbeck.graphics.cameras.camera import Camera, orbit_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.export.export import MeshExportOptions
from limbeck.graphics.export.splat_surface import splats_to_surface
from limbeck.graphics.export.writers import encode_obj, write_atomic
from limbeck.graphics.geometry.assets import Splats, Surface
from limbeck.runs.reopen import ReopenedRun

VIEWS, SIZE = 120, 512
ELEVATION, DISTANCE, FOV = 15.0, 1.5, 70.0  #: in degrees, units of its scene, degrees
_NEAR, _FAR = 0.1, 1000.0
#: column i is where axis i of our world (y up, front +z) points in threestudio's
AXES = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class ThreestudioView:
    """One view of the test split.

    Attributes:
        image: render in color on the run's background, in [0, 1].
        alpha: opacity.
        normal: unit normals in threestudio's world, zero where there is no surface.
        camera: the camera as in a batch of threestudio, each value with a leading 1.
    """

    image: Float[Tensor, "3 s s"]
    alpha: Float[Tensor, "1 s s"]
    normal: Float[Tensor, "3 s s"]
    camera: dict[str, Tensor]

    @property
    def normal_image(self) -> Float[Tensor, "3 s s"]:
        """Normals as threestudio shows them: mapped to [0, 1], black where nothing is."""
        return self.alpha * (self.normal + 1) / 2


def scene_scale(run: ReopenedRun) -> float:
    """Our units of length per unit of threestudio.

    It is such that the cameras see as much of the scene at the origin as the eval camera of the run
    does, whatever its distance and field of view.
    """
    camera = run.experiment.camera_sampler.eval_cameras(1)
    assert camera is not None
    seen = (camera.distance[0] * (camera.fov[0] / 2).tan()).item()
    return seen / (DISTANCE * math.tan(math.radians(FOV) / 2))


def view_azimuths() -> Float[Tensor, "v"]:
    """Azimuths in degrees; as in threestudio, the last is the first."""
    return torch.linspace(0.0, 360.0, VIEWS)


def view_cameras(scale: float) -> Camera:
    """The cameras in our world.

    Args:
        scale: our units of length per unit of threestudio.
    """
    azimuth = view_azimuths() % 360 * (math.pi / 180)  # the last view is the first bit by bit
    elevation = torch.full_like(azimuth, math.radians(ELEVATION))
    return orbit_cameras(azimuth, elevation, DISTANCE * scale, FOV)


def camera_batch(pose: Float[Tensor, "4 4"], azimuth: float, scale: float) -> dict[str, Tensor]:
    """A camera as in a batch of threestudio's data.

    Args:
        pose: camera-to-world matrix in our world.
        azimuth: in degrees.
        scale: our units of length per unit of threestudio.
    """
    c2w = torch.eye(4)
    c2w[:3, :3] = AXES @ pose[:3, :3].float().cpu()
    c2w[:3, 3] = AXES @ pose[:3, 3].float().cpu() / scale
    focal = 1 / math.tan(math.radians(FOV) / 2)
    projection = torch.zeros(4, 4)
    projection[0, 0], projection[1, 1] = focal, -focal  # y down, as nvdiffrast renders
    projection[2, 2] = -(_FAR + _NEAR) / (_FAR - _NEAR)
    projection[2, 3] = -2 * _FAR * _NEAR / (_FAR - _NEAR)
    projection[3, 2] = -1.0
    return {
        "c2w": c2w[None],
        "camera_positions": c2w[None, :3, 3],
        "proj_mtx": projection[None],
        "elevation": torch.tensor([ELEVATION]),
        "azimuth": torch.tensor([azimuth]),
        "camera_distances": torch.tensor([DISTANCE]),
    }


@torch.no_grad()
def render_views(run: ReopenedRun, particle: int) -> Iterator[ThreestudioView]:
    """Render a particle from all cameras.

    Args:
        run: the run.
        particle: index of the particle.

    Raises:
        ValueError: if the representation renders no opacity or normals.
    """
    scale, azimuths = scene_scale(run), view_azimuths()
    cameras = view_cameras(scale)
    for i, azimuth in enumerate(azimuths.tolist()):
        request = RenderRequest(torch.tensor([particle]), cameras[i : i + 1], size=(SIZE, SIZE))
        render = run.representation.render(request)
        if render.alpha is None or render.normal is None:
            raise ValueError(
                "the benchmark wants opacity and normals, and this representation renders none"
            )
        image = render.image if render.space == "image" else run.prior.decode(render.image)
        normal = F.normalize(_resize(render.normal), dim=1)[0]
        yield ThreestudioView(
            to_unit_range(_resize(image))[0],
            _resize(render.alpha).clamp(0, 1)[0],
            torch.einsum("ij,jyx->iyx", AXES, normal),
            camera_batch(cameras.pose[i], azimuth, scale),
        )


def _resize(channel: Float[Tensor, "1 c y x"]) -> Float[Tensor, "1 c s s"]:
    """A channel at the size of the benchmark, also of renders that keep their own."""
    channel = channel.float().cpu()
    if channel.shape[2:] == (SIZE, SIZE):
        return channel
    return F.interpolate(channel, (SIZE, SIZE), mode="bilinear", antialias=True)


def to_threestudio(surface: Surface, scale: float) -> Surface:
    """The same surface in threestudio's axes and units of length, as its cameras see it.

    Args:
        surface: a surface in our world.
        scale: our units of length per unit of threestudio.
    """

    def color(points: Tensor) -> Any:
        return surface.color(scale * points @ AXES.to(points))

    return Surface(surface.vertices @ AXES.T.to(surface.vertices) / scale, surface.faces, color)


def write_model(run: ReopenedRun, particle: int, mesh: MeshExportOptions, folder: Path) -> None:
    """Write model.obj with material and texture, z up, where threestudio exports it.

    Args:
        run: the run.
        particle: index of the particle.
        mesh: options of the mesh.
        folder: folder of the trial; the mesh is in ``save/itSTEP-export``.

    Raises:
        ValueError: if the particle has no surface, or it is a mesh of one's own.
    """
    asset = run.representation.asset(particle)
    if isinstance(asset, Splats):
        asset = splats_to_surface(asset)
    if not isinstance(asset, Surface):
        raise ValueError("the benchmark reads a mesh made from text, not one's own")
    exported, _ = mesh.to_mesh(to_threestudio(asset, scene_scale(run)))
    path = folder / "save" / f"it{run.step}-export" / "model.obj"
    path.parent.mkdir(parents=True)
    for file, data in encode_obj(exported, path, "z up, front towards +x").items():
        write_atomic(file, data)
