"""A mesh of one's own: rendering, a few steps of texture, and files that keep what was given."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from mesh_rays import rays
from own_meshes import checkered, write_own_meshes
from PIL import Image
from run_folders import record_run
from tiny_pipeline import max_difference

from limbeck.config.comparison import absolute_paths
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.export.export import MeshExportOptions, export_asset
from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.mesh import Mesh, MeshParticles, _changed_color
from limbeck.runs.own_files import changed_own_files
from limbeck.runs.snapshots_3d import take_snapshot
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

NAMES = ("uvs.glb", "plain.glb", "nodes.glb", "box.obj", "ball.ply")
SMALL = Mesh(
    shading="texture",
    encoding=DenseGridEncoding(resolutions=(4, 8)),
    decoder=MLPDecoder(hidden_dim=8),
    background=SolidBackground(color=(0.2, 0.4, 0.6)),
)
TEXELS = {kind: MeshExportOptions(texture_size=256) for kind in ("glb", "obj")} | {
    "ply": MeshExportOptions()
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_own_meshes(tmp_path_factory.mktemp("meshes"))


def built(path: Path, **options) -> MeshParticles:
    mesh = replace(SMALL, from_=path, **options).build(colored_shapes(12), 1, 0)
    assert isinstance(mesh, MeshParticles)
    return mesh


def trained(path: Path, steps: int = 3, **options) -> Run:
    experiment = Experiment(
        ("red disc",),
        method=SDS(),
        representation=replace(SMALL, from_=path, **options),
        cameras=Orbit(per_particle=2),
        steps=steps,
    )
    run = Run(experiment, colored_shapes(12))
    for _ in range(steps):
        run.advance()
    return run


def four_views(size: int) -> RenderRequest:
    return RenderRequest(
        torch.zeros(4).long(), turntable_cameras(4, 20, 3.6, 40), size=(size, size)
    )


def world_mesh(path: Path) -> trimesh.Trimesh:
    """The mesh of a file in the box of the representation, by trimesh alone."""
    mesh = trimesh.load_scene(path, process=False).to_geometry()
    mesh.apply_translation(-mesh.bounds.mean(0))
    mesh.apply_scale(0.8 / mesh.bounds.max())
    return mesh


@pytest.mark.parametrize("name", ["uvs.glb", "nodes.glb", "plain.glb"])
def test_silhouettes_are_those_of_ray_casting(files: dict[str, Path], name: str) -> None:
    request, mesh = four_views(32), world_mesh(files[name])
    alpha = built(files[name]).render(request).alpha
    assert alpha is not None and request.camera is not None
    for i in range(4):
        face, _, _ = rays(mesh, request.camera[i : i + 1], 32)
        hit = torch.tensor(face >= 0).reshape(32, 32)
        assert ((alpha[i, 0] > 0.5) == hit).float().mean() > 0.995


def test_before_the_first_step_a_mesh_has_the_colors_of_its_file(files: dict[str, Path]) -> None:
    request = four_views(64)
    image = built(files["uvs.glb"]).render(request).image
    assert request.camera is not None
    mesh = world_mesh(files["uvs.glb"])
    face, weights, _ = rays(mesh, request.camera[:1], 64)
    hit = face >= 0
    uv = (mesh.visual.uv[mesh.faces[face[hit]]] * weights[hit][:, :, None]).sum(1)
    texel = (np.stack([uv[:, 0], 1 - uv[:, 1]], 1) * 64).astype(int)
    expected = np.array(checkered())[texel[:, 1], texel[:, 0]] / 255
    found = image[0].permute(1, 2, 0).reshape(-1, 3)[torch.tensor(hit)].detach().numpy()
    assert np.abs(found - expected)[:, :2].mean() < 0.02  # the checkerboard is blurred at edges


def test_white_and_black_points_keep_their_gradient() -> None:
    initial = torch.tensor([[1.0, 0.0, 0.5]])
    change = torch.tensor([[0.5, -0.5, 0.0]], requires_grad=True)  # white and black, outwards
    color = _changed_color(initial, change)
    assert torch.equal(color, initial)
    color.sum().backward()
    assert bool((change.grad > 0).all())


def test_a_white_material_starts_gray_unless_the_file_is_asked_for(files: dict[str, Path]) -> None:
    for start, level in (("auto", 0.5), ("gray", 0.5), ("file", 1.0)):
        mesh = built(files["plain.glb"], start=start)
        color = take_snapshot(mesh, 0).colors
        assert (color - level).abs().max() < 0.01, start
    boxes = built(files["nodes.glb"])  # the ball among colored boxes is gray too
    assert boxes.file_colors is not None
    ball = boxes.file_colors(torch.tensor([100]), torch.full((1, 3), 1 / 3))
    assert max_difference(ball, torch.full((1, 3), 0.5)) < 1e-6


def _corner_uvs(mesh: trimesh.Trimesh) -> np.ndarray:
    """Places and texture coordinates of all corners, sorted."""
    corners = np.concatenate([mesh.triangles, mesh.visual.uv[mesh.faces]], 2).reshape(-1, 5)
    return corners[np.lexsort(corners.round(3).T)]


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
@pytest.mark.parametrize("name", NAMES)
def test_a_textured_mesh_comes_back_with_its_size_pose_and_faces(
    files: dict[str, Path], name: str, kind: str, tmp_path: Path
) -> None:
    run = trained(files[name], steps=1)
    asset = run.representation.asset(0)
    path = tmp_path / f"back.{kind}"
    summary = export_asset(asset, path, kind, TEXELS[kind])
    before = trimesh.load_scene(files[name], process=False).to_geometry()
    after = trimesh.load_scene(path, process=False).to_geometry()
    assert len(after.faces) == len(before.faces) and f"all {len(before.faces):,} faces" in summary
    assert np.abs(after.bounds - before.bounds).max() < 1e-5
    assert after.volume == pytest.approx(abs(before.volume), rel=1e-5)
    centers = (np.sort(mesh.triangles_center, 0) for mesh in (after, before))
    assert np.abs(np.subtract(*centers)).max() < 1e-5
    # "y up" would be wrong for a file with z up, which stays as it is
    assert b"y up" not in path.read_bytes()[:200]
    assert {p.suffix for p in tmp_path.iterdir()} <= {".glb", ".obj", ".ply", ".mtl", ".png"}


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_the_texture_that_comes_back_is_the_one_that_is_rendered(
    files: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """By ray casting in the written file; it is no longer the texture of the file that was read."""
    particles, request = trained(files["uvs.glb"], lr=0.3).representation, four_views(64)
    path = tmp_path / f"back.{kind}"
    export_asset(particles.asset(0), path, kind, TEXELS[kind])
    mesh = world_mesh(path)
    assert request.camera is not None
    face, weights, _ = rays(mesh, request.camera[:1], 64)
    hit = face >= 0
    uv = (mesh.visual.uv[mesh.faces[face[hit]]] * weights[hit][:, :, None]).sum(1)
    column, row = (np.stack([uv[:, 0], 1 - uv[:, 1]]) * 256).astype(int)
    material = mesh.visual.material
    image = material.baseColorTexture if kind == "glb" else material.image
    written = np.asarray(image.convert("RGB"))[row, column] / 255
    given = np.array(checkered())[row // 4, column // 4] / 255
    with torch.no_grad():
        render = particles.render(request)
    alpha, rendered = (x[0].flatten(1).T[torch.tensor(hit)] for x in (render.alpha, render.image))
    inside = alpha[:, 0].numpy() > 0.999  # others show the background too
    # the checkerboard of the third channel is blurred at edges
    assert np.abs(written - rendered.numpy())[inside, :2].mean() < 0.01
    assert np.abs(written - given)[inside, :2].mean() > 0.1 and inside.sum() > 500


@pytest.mark.parametrize("kind", ["glb", "obj"])
@pytest.mark.parametrize("name", ["uvs.glb", "box.obj"])
def test_texture_coordinates_come_back(
    files: dict[str, Path], name: str, kind: str, tmp_path: Path
) -> None:
    export_asset(built(files[name]).asset(0), tmp_path / f"back.{kind}", kind, TEXELS[kind])
    before = trimesh.load_scene(files[name], process=False).to_geometry()
    after = trimesh.load_scene(tmp_path / f"back.{kind}", process=False).to_geometry()
    assert np.abs(_corner_uvs(before) - _corner_uvs(after)).max() < 1e-5
    assert np.array_equal(before.faces, after.faces) or kind == "obj"
    material = after.visual.material
    image = material.baseColorTexture if kind == "glb" else material.image
    small = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX)).astype(int)
    uv = before.visual.uv[before.faces].mean(1)  # between the corners of faces
    at = (np.stack([uv[:, 0], 1 - uv[:, 1]], 1) * 64).astype(int)
    original = np.array(checkered()).astype(int)
    error = np.abs(small - original)[at[:, 1], at[:, 0]].max(0)
    assert error[:2].max() <= 2 and error[2] <= 200 / 8 + 1  # edges of the checkerboard are blurred
    assert material.name == "paint"


def test_every_material_keeps_its_texture_and_coordinates(
    files: dict[str, Path], tmp_path: Path
) -> None:
    mesh = built(files["nodes.glb"])
    assert "new texture coordinates (surface has none)" in mesh.init_message
    export_asset(mesh.asset(0), tmp_path / "back.glb", "glb", TEXELS["glb"])
    parts = trimesh.load_scene(tmp_path / "back.glb", process=False).geometry.values()
    names = {part.visual.material.name: part for part in parts}
    assert set(names) == {"a", "b", "surface"}
    scene = trimesh.load_scene(files["nodes.glb"], process=False)
    for node, name in (("one", "a"), ("two", "b")):
        matrix, geometry = scene.graph[node]
        before = scene.geometry[geometry].copy()
        before.apply_transform(matrix)
        assert np.abs(_corner_uvs(before) - _corner_uvs(names[name])).max() < 1e-5
        assert names[name].visual.material.baseColorTexture.size == (256, 256)


def test_a_closed_mesh_without_coordinates_comes_back_closed(
    files: dict[str, Path], tmp_path: Path
) -> None:
    export_asset(built(files["plain.glb"]).asset(0), tmp_path / "back.glb", "glb", TEXELS["glb"])
    back = trimesh.load(tmp_path / "back.glb", force="mesh")
    back.merge_vertices(merge_tex=True, merge_norm=True)
    assert back.is_watertight and back.visual.uv.min() >= 0 and back.visual.uv.max() <= 1


def test_steps_change_the_texture_and_nothing_else(files: dict[str, Path]) -> None:
    before, run = built(files["uvs.glb"]), trained(files["uvs.glb"])
    after = run.representation
    assert isinstance(after, MeshParticles)
    old, new = before.asset(0).parts[0], after.asset(0).parts[0]
    assert torch.equal(old.vertices, new.vertices) and new.uv is not None
    face, weights = torch.arange(12), torch.full((12, 3), 1 / 3)
    assert (old.color(face, weights) - new.color(face, weights)).abs().max() > 1e-3


def test_with_geometry_vertices_move_and_faces_stay(files: dict[str, Path]) -> None:
    run = trained(files["plain.glb"], geometry=True, offset_lr=0.02)
    mesh = run.representation
    assert isinstance(mesh, MeshParticles)
    part = mesh.asset(0).parts[0]
    given = mesh.mesh.parts[0]
    moved = (part.vertices - given.vertices).norm(dim=1)
    assert moved.max() > 1e-3 and torch.equal(part.faces, given.faces)
    assert moved.max() < 0.2
    lengths = part.normals.norm(dim=2)
    assert max_difference(lengths, torch.ones_like(lengths)) < 1e-4


def test_open_surfaces_are_lit_from_both_sides(tmp_path: Path) -> None:
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    square.export(tmp_path / "square.ply")
    mesh = built(tmp_path / "square.ply", shading="lit", half_size=0.5)
    assert "not a closed surface" in mesh.init_message
    front, _, back, _ = mesh.render(four_views(33)).image[:, :, 16, 16]
    assert max_difference(front, back) < 1e-3 and front.mean() > 0.35


def test_a_run_recognizes_its_mesh(files: dict[str, Path]) -> None:
    state = built(files["uvs.glb"]).state_dict()
    built(files["uvs.glb"]).load_state_dict(state)
    with pytest.raises(ValueError, match="is not the mesh that this run was started with"):
        built(files["plain.glb"]).load_state_dict(state)


def test_a_run_recognizes_the_colors_of_its_mesh(tmp_path: Path) -> None:
    """They are the start of what is learned; runs that stored no digest of them are resumed."""
    paths = [tmp_path / "red.obj", tmp_path / "blue.obj"]
    for path, rgb in zip(paths, ("1 0 0", "0 0 1"), strict=True):
        corners = ("0 0 0", "1 0 0", "0 1 0")
        path.write_text("".join(f"v {p} {rgb}\n" for p in corners) + "f 1 2 3\n")
    red, blue = (built(path) for path in paths)
    state = red.state_dict()
    built(paths[0]).load_state_dict(state)
    with pytest.raises(ValueError, match="is not the mesh that this run was started with"):
        blue.load_state_dict(state)
    data = red.mesh.points.numpy().tobytes() + red.mesh.faces.numpy().tobytes()
    before = torch.tensor(list(hashlib.sha256(data).digest()), dtype=torch.uint8)
    red.load_state_dict(state | {"digest": before})
    assert torch.equal(red.digest, state["digest"])


def test_a_run_of_another_mesh_asks_for_the_file_and_not_for_its_checkpoint(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path, folder = tmp_path / "own.glb", tmp_path / "run"
    shutil.copy(files["uvs.glb"], path)
    e = Experiment(("red disc",), representation=replace(SMALL, from_=path), steps=1)
    record_run(e, folder, films=False)
    assert changed_own_files(folder, e) == []
    shutil.copy(files["plain.glb"], path)
    assert changed_own_files(folder, e) == [str(path)]
    (folder / "profile.json").unlink()
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is not the mesh .*: put that"):
        record_run(e, folder, films=False)


def test_the_file_is_written_as_an_absolute_path(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files["uvs.glb"].parent)
    experiment = Experiment(("a",), representation=replace(SMALL, from_=Path("uvs.glb")))
    text = to_yaml(absolute_paths(experiment))
    assert f"from: {files['uvs.glb']}\n" in text
    assert from_yaml(Experiment, text).representation == replace(SMALL, from_=files["uvs.glb"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"up": "+y", "front": "-y"}, "different axes, not \\+y and -y"),
        ({"half_size": 0.0}, "half_size must be positive, not 0.0"),
        ({"shading": "normals"}, "nothing is optimized"),
        ({"ambient": 2.0}, "ambient must be in"),
        ({"offset_smoothing": -1}, "must not be negative, not -1"),
        ({"offset_lr": 0.1}, "offset_lr 0.1 has no effect without geometry: leave it out, or give"),
        ({"laplacian_weight": 1.0}, "laplacian_weight 1.0 has no effect without geometry"),
        ({"images": (Path("x.png"),)}, "cannot start from images"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **options)


def test_a_mesh_needs_a_file_before_the_model_is_loaded() -> None:
    with pytest.raises(ValueError, match="needs --representation\\.from FILE"):
        SMALL.check_files()
