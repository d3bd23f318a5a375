"""Exported files in Blender: imported by its own importers and rendered by Cycles.

``LIMBECK_BLENDER`` names a Python that has Blender as its module (``pip install bpy``); without it
these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from mesh_rays import rays
from own_meshes import write_own_meshes
from painted_ball import RADIUS, ball, cloud, fine_cloud, paint
from PIL import Image

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.export.export import MeshExportOptions, export_asset
from limbeck.graphics.geometry.assets import Surface
from limbeck.priors.exact import colored_shapes
from limbeck.representations.mesh import Mesh

BLENDER = os.environ.get("LIMBECK_BLENDER", "")
SIZE = 64
CAMERAS = turntable_cameras(4, 20, 4, 40)[:2]  # the front and one side
MESH_FILES = {
    "texture.glb": ("glb", False),
    "vertices.glb": ("glb", True),
    "texture.obj": ("obj", False),
    "vertices.obj": ("obj", True),
    "vertices.ply": ("ply", True),
}  #: format, and whether it has vertex colors

#: meshes of one's own: names of their materials
OWN_MESHES = {"uvs.glb": ["paint"], "plain.glb": ["surface"], "nodes.glb": ["a", "b", "surface"]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BLENDER, reason="LIMBECK_BLENDER names no Python with bpy"),
]


def ball_with_beam() -> Surface:
    """The painted ball with a beam at the front, upper right of its center."""
    beam = trimesh.creation.box(extents=(0.3, 0.2, 0.6))
    beam.apply_translation((0.15, 0.35, 0.9))
    surface = ball()
    beam_faces = torch.tensor(beam.faces).long() + len(surface.vertices)
    return Surface(
        torch.cat([surface.vertices, torch.tensor(beam.vertices).float()]),
        torch.cat([surface.faces, beam_faces]),
        paint,
    )


@dataclass(frozen=True)
class BlenderResult:
    """What Blender imported and rendered.

    Attributes:
        objects: descriptions of the imported objects by file name.
        folder: folder of the images.
    """

    objects: dict
    folder: Path

    def image(self, name: str, camera: int) -> tuple[np.ndarray, np.ndarray]:
        """Colors in [0, 1] and alpha."""
        path = self.folder / f"{name}-{camera}.png"
        pixels = np.asarray(Image.open(path), np.float64) / 255
        return pixels[..., :3], pixels[..., 3]


SPLAT_FILES = ("splats.ply", "splats.glb")


@pytest.fixture(scope="module")
def blender(tmp_path_factory: pytest.TempPathFactory) -> BlenderResult:
    folder = tmp_path_factory.mktemp("blender")
    for name, (kind, vertex_colors) in MESH_FILES.items():
        options = MeshExportOptions(
            texture_size=None if vertex_colors or kind == "ply" else 256,
            vertex_colors=vertex_colors,
            min_component_fraction=0,
        )
        export_asset(ball_with_beam(), folder / name, kind, options)  # type: ignore[arg-type]
    export_asset(cloud(), folder / "splats.ply", "ply")
    export_asset(fine_cloud(), folder / "splats.glb", "glb", MeshExportOptions("draft"))
    for name, path in write_own_meshes(folder / "own").items():
        if name in OWN_MESHES:
            mesh = Mesh(from_=path).build(colored_shapes(12), 1, 0)
            export_asset(mesh.asset(0), folder / name, "glb", MeshExportOptions("draft"))
    job = {
        "files": [
            str(folder / name) for name in (*MESH_FILES, *OWN_MESHES, "splats.ply", "splats.glb")
        ],
        "poses": CAMERAS.pose.tolist(),
        "fov": CAMERAS.fov[0].item(),
        "size": SIZE,
        "out": str(folder),
    }
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).parents[1] / "helpers" / "in_blender.py"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    process = subprocess.run(
        [BLENDER, script, folder / "job.json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    return BlenderResult(json.loads((folder / "found.json").read_text()), folder)


def expected_image(camera: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint and coverage of the surface by ray casting."""
    surface = ball_with_beam()
    mesh = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    face, _, points = rays(mesh, CAMERAS[slice(camera, camera + 1)], SIZE)
    colors = paint(torch.tensor(points)).numpy()
    return colors.reshape(SIZE, SIZE, 3), (face >= 0).reshape(SIZE, SIZE)


def interior(covered: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbors are covered too."""
    padded = np.pad(covered, 1)
    shifts = [padded[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)]
    return np.all(shifts, axis=0)


@pytest.mark.parametrize("name", MESH_FILES)
@pytest.mark.parametrize("camera", [0, 1])
def test_blender_renders_what_we_render(blender: BlenderResult, name: str, camera: int) -> None:
    """Orientation, size, position and color at once, by the beam and the paint."""
    colors, alpha = blender.image(name, camera)
    expected, covered = expected_image(camera)
    visible = alpha > 0.5
    assert (visible & covered).sum() / (visible | covered).sum() > 0.985
    error = np.abs(colors - expected)[interior(visible & covered)]
    assert error.mean() < 0.008 and np.quantile(error, 0.99) < 0.06, (error.mean(), error.max())


@pytest.mark.parametrize("name", MESH_FILES)
def test_units_are_meters_and_the_front_is_blenders(blender: BlenderResult, name: str) -> None:
    """Up is Blender's z and the front its -y, which its "front" view, numpad 1, shows."""
    (item,) = blender.objects[name]
    assert item["faces"] == 1292
    assert np.abs(np.array(item["low"]) - [-RADIUS, -1.2, -RADIUS]).max() < 1e-4
    assert np.abs(np.array(item["high"]) - RADIUS).max() < 1e-4


@pytest.mark.parametrize("name", ["texture.glb", "texture.obj"])
def test_the_texture_is_the_base_color(blender: BlenderResult, name: str) -> None:
    (material,) = blender.objects[name][0]["materials"]
    assert material == {"from": "TEX_IMAGE", "material": "surface", "images": [[256, 256, "sRGB"]]}


@pytest.mark.parametrize("name", OWN_MESHES)
def test_an_own_mesh_has_the_size_and_place_of_its_file(blender: BlenderResult, name: str) -> None:
    """And a texture for each of its materials."""
    (item,) = blender.objects[name]
    given = trimesh.load_scene(blender.folder / "own" / name).to_geometry()
    low, high = given.bounds
    assert item["faces"] == len(given.faces)
    assert np.abs(np.array(item["low"]) - [low[0], -high[2], low[1]]).max() < 1e-4
    assert np.abs(np.array(item["high"]) - [high[0], -low[2], high[1]]).max() < 1e-4
    assert item["materials"] == [
        {"from": "TEX_IMAGE", "material": material, "images": [[512, 512, "sRGB"]]}
        for material in OWN_MESHES[name]
    ]


def test_vertex_colors_are_color_attributes(blender: BlenderResult) -> None:
    """Only a .glb brings a material that shows them; docs/export.md says how to show the others."""
    assert blender.objects["vertices.glb"][0]["materials"] == [
        {"from": "VERTEX_COLOR", "material": "surface", "images": []}
    ]
    for name in ("vertices.glb", "vertices.obj", "vertices.ply"):
        (item,) = blender.objects[name]
        assert len(item["color_attributes"]) == 1
        assert name == "vertices.glb" or item["materials"] == []


def test_splats_become_a_textured_mesh_of_their_size(blender: BlenderResult) -> None:
    (item,) = blender.objects["splats.glb"]
    (material,) = item["materials"]
    assert material == {"from": "TEX_IMAGE", "material": "surface", "images": [[512, 512, "sRGB"]]}
    assert 0 < item["faces"] <= 8_000
    assert np.abs(np.array(item["low"]) + RADIUS).max() < 0.04
    assert np.abs(np.array(item["high"]) - RADIUS).max() < 0.04


def test_splats_are_points_in_the_right_place(blender: BlenderResult) -> None:
    (item,) = blender.objects["splats.ply"]
    x, y, z = cloud().means.unbind(1)
    expected = torch.stack([x, -z, y], 1)
    assert item["vertices"] == len(expected) and item["faces"] == 0
    assert {"f_dc_0", "opacity", "scale_2", "rot_3"} <= set(item["attributes"])
    assert np.abs(np.array(item["low"]) - expected.amin(0).numpy()).max() < 1e-5
    assert np.abs(np.array(item["high"]) - expected.amax(0).numpy()).max() < 1e-5
