"""What Blender makes of exported files: opened by its own importers and rendered by Cycles, in a Python of its own.

``LIMBECK_BLENDER`` names a Python that has Blender as its module (``pip install bpy``); without one there is nothing to test.
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
from painted_ball import RADIUS, ball, cloud, paint
from PIL import Image

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.export.export import MeshExportOptions, export
from limbeck.graphics.geometry.solids import Surface

BLENDER = os.environ.get("LIMBECK_BLENDER", "")
SIZE = 64
EYES = turntable_cameras(4, 20, 4, 40)[:2]  # the front and one side
KINDS = [("glb", False), ("glb", True), ("obj", False), ("obj", True), ("ply", True)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BLENDER, reason="LIMBECK_BLENDER names no Python with bpy"),
]


def nosed() -> Surface:
    """The painted ball with a beam that shows which way it looks: to the front, above and to one side of the middle."""
    beam = trimesh.creation.box(extents=(0.3, 0.2, 0.6))
    beam.apply_translation((0.15, 0.35, 0.9))
    whole = ball()
    corners = torch.tensor(beam.faces).long() + len(whole.vertices)
    return Surface(
        torch.cat([whole.vertices, torch.tensor(beam.vertices).float()]),
        torch.cat([whole.faces, corners]),
        paint,
    )


def named(kind: str, coloured: bool) -> str:
    return f"{'vertices' if coloured else 'texture'}.{kind}"


@dataclass(frozen=True)
class Found:
    """What Blender told, and where its pictures are."""

    conditions: dict
    folder: Path

    def picture(self, name: str, eye: int) -> tuple[np.ndarray, np.ndarray]:
        """Colours in [0, 1] and what is covered."""
        pixels = np.asarray(Image.open(self.folder / f"{name}-{eye}.png"), np.float64) / 255
        return pixels[..., :3], pixels[..., 3]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("blender")
    files = [folder / named(*kind) for kind in KINDS]
    for file, (kind, coloured) in zip(files, KINDS, strict=True):
        export(
            nosed(), file, kind, MeshExportOptions(texture=256, vertex_colours=coloured, crumbs=0)
        )  # type: ignore[arg-type]
    export(cloud(), folder / "splats.ply", "ply")
    files.append(folder / "splats.ply")
    job = {
        "files": [str(file) for file in files],
        "poses": EYES.pose.tolist(),
        "fov": EYES.fov[0].item(),
        "size": SIZE,
    }
    (folder / "job.json").write_text(json.dumps(job | {"out": str(folder)}))
    script = Path(__file__).parents[1] / "helpers" / "in_blender.py"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [BLENDER, script, folder / "job.json"],
        capture_output=True,
        text=True,
        env=clean,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Found(json.loads((folder / "found.json").read_text()), folder)


def expected(eye: int) -> tuple[np.ndarray, np.ndarray]:
    """The thing through our camera by rays of our own: its paint, and what it covers."""
    thing = nosed()
    mesh = trimesh.Trimesh(thing.vertices.numpy(), thing.faces.numpy(), process=False)
    face, _, points = rays(mesh, EYES[slice(eye, eye + 1)], SIZE)
    colours = paint(torch.tensor(points)).numpy()
    return colours.reshape(SIZE, SIZE, 3), (face >= 0).reshape(SIZE, SIZE)


def inner(covered: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours are covered too."""
    near = np.pad(covered, 1)
    return np.all([near[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)], axis=0)


@pytest.mark.parametrize("name", [named(*kind) for kind in KINDS])
@pytest.mark.parametrize("eye", [0, 1])
def test_blender_s_picture_is_ours(found: Found, name: str, eye: int) -> None:
    """Orientation, size, place and colours at once, as the beam and the paint of each side differ."""
    colours, alpha = found.picture(name, eye)
    wanted, covered = expected(eye)
    seen = alpha > 0.5
    assert (seen & covered).sum() / (seen | covered).sum() > 0.985
    error = np.abs(colours - wanted)[inner(seen & covered)]
    assert error.mean() < 0.008 and np.quantile(error, 0.99) < 0.06, (error.mean(), error.max())


@pytest.mark.parametrize("name", [named(*kind) for kind in KINDS])
def test_lengths_are_metres_and_the_front_is_blender_s(found: Found, name: str) -> None:
    """Up is its z, the front its -y: what its "front" view, numpad 1, shows."""
    (thing,) = found.conditions[name]
    assert thing["faces"] == 1292
    assert np.abs(np.array(thing["low"]) - [-RADIUS, -1.2, -RADIUS]).max() < 1e-4
    assert np.abs(np.array(thing["high"]) - RADIUS).max() < 1e-4


@pytest.mark.parametrize("name", ["texture.glb", "texture.obj"])
def test_the_material_has_the_texture_as_its_base_colour(found: Found, name: str) -> None:
    (material,) = found.conditions[name][0]["materials"]
    assert material == {"from": "TEX_IMAGE", "material": "surface", "images": [[256, 256, "sRGB"]]}


def test_coloured_vertices_are_colour_attributes(found: Found) -> None:
    """Only a .glb brings a material that shows them; docs/export.md says what to do with the others."""
    assert found.conditions["vertices.glb"][0]["materials"] == [
        {"from": "VERTEX_COLOR", "material": "surface", "images": []}
    ]
    for name in ("vertices.glb", "vertices.obj", "vertices.ply"):
        (thing,) = found.conditions[name]
        assert len(thing["coloured"]) == 1 and (name == "vertices.glb" or thing["materials"] == [])


def test_splats_are_points_in_the_right_place(found: Found) -> None:
    (thing,) = found.conditions["splats.ply"]
    places = cloud().mean
    turned = torch.stack([places[:, 0], -places[:, 2], places[:, 1]], 1)
    assert thing["vertices"] == len(places) and thing["faces"] == 0
    assert {"f_dc_0", "opacity", "scale_2", "rot_3"} <= set(thing["attributes"])
    assert np.abs(np.array(thing["low"]) - turned.amin(0).numpy()).max() < 1e-5
    assert np.abs(np.array(thing["high"]) - turned.amax(0).numpy()).max() < 1e-5
