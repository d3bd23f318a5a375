"""Exported files, opened with trimesh and rendered by ray casting, show the exported asset."""

from __future__ import annotations

import io
import json
import math
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from mesh_rays import rays
from painted_ball import RADIUS, Ball, ball, cloud, paint
from refusals import refused
from tiny_pipeline import max_difference, rng

from limbeck import Experiment
from limbeck.cli.main import main
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.export import decimation, uv_atlas
from limbeck.graphics.export.export import (
    DEFAULT_MAX_FACES,
    ExportFormat,
    MeshExportOptions,
    export_asset,
)
from limbeck.graphics.export.mesh_cleanup import (
    TexturedMesh,
    count_charts,
    decimate,
    drop_small_components,
    is_closed_surface,
    unit_vertex_normals,
)
from limbeck.graphics.export.uv_atlas import bake_texture, dilate_texture, rasterize_uv
from limbeck.graphics.export.writers import decode_ply, encode_glb, encode_ply, srgb_to_linear
from limbeck.graphics.geometry.assets import MappedMesh, Splats, Surface
from limbeck.graphics.geometry.gaussian_ply import read_gaussian_ply
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid
from limbeck.graphics.geometry.mesh import MeshTopology, connected_components
from limbeck.priors.loading import load
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.reopen import reopen_run

CUBE_COLORS = torch.tensor(
    [
        [0.9, 0.1, 0.1],
        [0.1, 0.8, 0.1],
        [0.1, 0.2, 0.9],
        [0.9, 0.8, 0.1],
        [0.8, 0.1, 0.8],
        [0.1, 0.8, 0.8],
    ]
)  #: of the sides +x, -x, +y, -y, +z, -z


def cube_color(points: torch.Tensor) -> torch.Tensor:
    """The color of the side of a cube that a point lies on."""
    axis = points.abs().argmax(1)
    negative = points.gather(1, axis[:, None])[:, 0] < 0
    return CUBE_COLORS[2 * axis + negative.long()]


def cube(squares: int = 1) -> Surface:
    """A cube of side length 1, each side made of ``squares`` x ``squares`` squares."""
    mesh = trimesh.creation.box(extents=(1, 1, 1))
    for _ in range(int(math.log2(squares))):
        mesh = mesh.subdivide()
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces).long()
    return Surface(vertices, faces, cube_color)


def open_mesh(path: Path) -> trimesh.Trimesh:
    """The only mesh of a file, which must have no transform."""
    scene = trimesh.load_scene(path, process=False)
    (node,) = scene.graph.nodes_geometry
    transform, name = scene.graph[node]
    assert (transform == np.eye(4)).all()
    return scene.geometry[name]


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def read_vertex_colors(mesh: trimesh.Trimesh, kind: str) -> np.ndarray:
    """sRGB in [0, 1]; a .glb stores linear colors."""
    if kind == "glb":
        return linear_to_srgb(np.asarray(mesh.visual.vertex_attributes["color"], np.float64))
    return np.asarray(mesh.visual.vertex_colors)[:, :3] / 255


def look_up(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear texture look-up as on a GPU: v downwards, clamped at the borders."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)

    def texel(dx: int, dy: int) -> np.ndarray:
        return texture[(top + dy).clip(0, height - 1), (left + dx).clip(0, width - 1)]

    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = (1 - fx) * texel(0, 0) + fx * texel(1, 0)
    lower = (1 - fx) * texel(0, 1) + fx * texel(1, 1)
    return (1 - fy) * upper + fy * lower


def colors_at(mesh: trimesh.Trimesh, face: np.ndarray, weight: np.ndarray, kind: str) -> np.ndarray:
    """Colors in [0, 1] at barycentric coordinates of faces, as trimesh read them."""

    def interpolate(values: np.ndarray) -> np.ndarray:
        return (values[mesh.faces[face]] * weight[..., None]).sum(1)

    if mesh.visual.kind == "vertex" or "color" in mesh.visual.vertex_attributes:
        return interpolate(read_vertex_colors(mesh, kind))
    material = mesh.visual.material
    image = material.baseColorTexture if kind == "glb" else material.image
    uv = interpolate(mesh.visual.uv)  # trimesh has v upwards
    return look_up(np.asarray(image.convert("RGB")) / 255, np.stack([uv[:, 0], 1 - uv[:, 1]], 1))


# files


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
@pytest.mark.parametrize("vertex_colors", [False, True])
def test_a_camera_sees_the_exported_ball_in_the_file(
    tmp_path: Path, kind: str, vertex_colors: bool
) -> None:
    """Color, position, size and orientation: each of four cameras sees the paint it looks at."""
    textured = kind != "ply" and not vertex_colors
    options = MeshExportOptions(texture_size=128 if textured else None, vertex_colors=vertex_colors)
    export_asset(ball(), tmp_path / f"ball.{kind}", kind, options)
    mesh = open_mesh(tmp_path / f"ball.{kind}")
    assert (tmp_path / "ball.png").exists() == (kind == "obj" and not vertex_colors)
    cameras = turntable_cameras(4, 20, 3, 40)
    for camera in (cameras[slice(i, i + 1)] for i in range(4)):
        face, weight, points = rays(mesh, camera, 24)
        hit = face >= 0
        expected = paint(torch.tensor(points[hit])).numpy()
        error = np.abs(colors_at(mesh, face[hit], weight[hit], kind) - expected)
        assert hit.sum() > 100
        assert error.mean() < 0.005 and error.max() < 0.03, (error.mean(), error.max())
        to_camera = camera.eye[0].double().numpy() / 3
        nearest = points[hit][(points[hit] @ to_camera).argmax()]
        assert np.abs(nearest - RADIUS * to_camera).max() < 0.08


def test_cameras_around_a_cube_see_its_sides(tmp_path: Path) -> None:
    export_asset(cube(), tmp_path / "cube.glb", "glb", MeshExportOptions(texture_size=64))
    mesh = open_mesh(tmp_path / "cube.glb")
    cameras = turntable_cameras(4, 0, 3, 10)
    for i, side in enumerate((4, 0, 5, 1)):  # +z, +x, -z, -x
        face, weight, _ = rays(mesh, cameras[slice(i, i + 1)], 5)
        assert (face >= 0).all()
        error = np.abs(colors_at(mesh, face, weight, "glb") - CUBE_COLORS[side].numpy())
        assert error.max() < 1 / 255


def test_no_seam_is_visible() -> None:
    """A bilinear look-up at the border of a chart reads texels outside, which are padding."""
    mesh = bake_texture(cube(), 64)
    assert mesh.uv is not None and mesh.texture is not None
    weight = torch.rand(len(mesh.faces), 200, 3, generator=rng()).pow(6)  # near edges and corners
    weight = 0.002 / 3 + 0.998 * weight / weight.sum(2, keepdim=True)
    points = torch.einsum("fnk,fkc->fnc", weight, mesh.vertices[mesh.faces]).reshape(-1, 3)
    uv = torch.einsum("fnk,fkc->fnc", weight, mesh.uv[mesh.faces]).reshape(-1, 2).numpy()
    expected = cube_color(points).numpy()
    padded = look_up(mesh.texture.permute(1, 2, 0).numpy(), uv)
    assert np.abs(padded - expected).max() < 1e-5
    without_padding = mesh.texture * (rasterize_uv(mesh.uv, mesh.faces, 64)[0] >= 0)
    bare = look_up(without_padding.permute(1, 2, 0).numpy(), uv)
    assert np.abs(bare - expected).max() > 0.2, "the test would notice missing padding"


def uniform_ball(color: torch.Tensor) -> Surface:
    shape = ball(1)
    return Surface(shape.vertices, shape.faces, lambda points: color.expand(len(points), 3))


def test_a_texture_holds_srgb_bytes(tmp_path: Path) -> None:
    color = torch.tensor([0.02, 0.25, 0.8])
    options = MeshExportOptions(texture_size=32)
    export_asset(uniform_ball(color), tmp_path / "t.glb", "glb", options)
    texture = np.asarray(open_mesh(tmp_path / "t.glb").visual.material.baseColorTexture)
    assert (texture == (color * 255).round().numpy()).all(), "every texel, also between the charts"


def test_vertex_colors_are_linear_in_glb_and_srgb_in_ply(tmp_path: Path) -> None:
    color = torch.tensor([0.02, 0.25, 0.8])
    surface, options = uniform_ball(color), MeshExportOptions(vertex_colors=True)
    export_asset(surface, tmp_path / "v.glb", "glb", options)
    document, binary = glb_chunks((tmp_path / "v.glb").read_bytes())
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    accessor = document["accessors"][attributes["COLOR_0"]]
    view = document["bufferViews"][accessor["bufferView"]]
    linear = np.frombuffer(binary, "<f4", 3 * accessor["count"], view["byteOffset"]).reshape(-1, 3)
    assert np.abs(linear_to_srgb(linear.astype(np.float64)) - color.numpy()).max() < 1e-6
    assert np.abs(linear[0, 1] - ((0.25 + 0.055) / 1.055) ** 2.4) < 1e-6
    export_asset(surface, tmp_path / "v.ply", "ply")
    stored = open_mesh(tmp_path / "v.ply").visual.vertex_colors[:, :3]
    assert (stored == (color * 255).round().numpy()).all()


def glb_chunks(data: bytes) -> tuple[dict, bytes]:
    """Document and binary data of a .glb, after checking its headers."""
    magic, version, length, json_length, json_kind = struct.unpack_from("<4sIIII", data)
    binary_length, binary_kind = struct.unpack_from("<II", data, 20 + json_length)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    assert (json_kind, binary_kind) == (0x4E4F534A, 0x004E4942)
    assert json_length % 4 == 0 and binary_length % 4 == 0
    assert 28 + json_length + binary_length == length
    return json.loads(data[20 : 20 + json_length]), data[28 + json_length :]


@pytest.mark.parametrize(
    "options", [MeshExportOptions(texture_size=32), MeshExportOptions(vertex_colors=True)]
)
def test_a_glb_is_valid_gltf(options: MeshExportOptions) -> None:
    mesh, _ = options.to_mesh(ball(1))
    document, binary = glb_chunks(encode_glb(mesh))
    assert document["buffers"] == [{"byteLength": len(binary)}]
    assert document["asset"]["version"] == "2.0"
    width = {"VEC3": 12, "VEC2": 8, "SCALAR": 4}
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        assert view["byteLength"] >= accessor["count"] * width[accessor["type"]]
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    position = document["accessors"][attributes["POSITION"]]
    assert position["min"] == mesh.vertices.amin(0).tolist()
    assert position["max"] == mesh.vertices.amax(0).tolist()
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0 and 0.5 <= material["roughnessFactor"] <= 1
    assert max_difference(mesh.normals.norm(dim=1), torch.ones(len(mesh.normals))) < 1e-5
    assert "extensionsUsed" not in document
    unlit, _ = glb_chunks(encode_glb(mesh, unlit=True))
    assert unlit["extensionsUsed"] == ["KHR_materials_unlit"]


def test_an_obj_refers_to_its_texture(tmp_path: Path) -> None:
    path, options = tmp_path / "new" / "a.obj", MeshExportOptions(texture_size=32)
    summary = export_asset(ball(1), path, "obj", options)
    assert re.fullmatch(r"80 faces with a texture of 32 x 32 in \d charts, watertight", summary)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["a.mtl", "a.obj", "a.png"], "and no temporary files"
    assert "mtllib a.mtl" in path.read_text()
    assert "map_Kd a.png" in path.with_suffix(".mtl").read_text()


def test_the_vertices_of_an_obj_have_no_seams(tmp_path: Path) -> None:
    """Programs that do not weld, such as Eval3D's, see one closed surface, not its charts."""
    surface = ball(2)
    export_asset(surface, tmp_path / "a.obj", "obj", MeshExportOptions(texture_size=64))
    lines = [line.split() for line in (tmp_path / "a.obj").read_text().splitlines()]
    count = {word: sum(line[0] == word for line in lines) for word in ("v", "vn", "vt", "f")}
    assert count["v"] == count["vn"] == len(surface.vertices) < count["vt"]
    corners = [[corner.split("/") for corner in line[1:]] for line in lines if line[0] == "f"]
    assert all(v == n for face in corners for v, _, n in face)
    faces = np.array([[int(v) for v, _, _ in face] for face in corners]) - 1
    mesh = trimesh.Trimesh(faces=faces, vertices=np.zeros((count["v"], 3)), process=False)
    assert mesh.is_watertight and mesh.euler_number == 2
    positions = np.array([line[1:] for line in lines if line[0] == "v"], float)
    expected = surface.vertices[surface.faces].numpy()
    assert np.abs(positions[faces] - expected).max() < 1e-6  # the same faces in the same order


def test_a_mesh_ply_is_read_back() -> None:
    mesh, _ = MeshExportOptions(vertex_colors=True).to_mesh(ball(2))
    back = decode_ply(encode_ply(mesh))
    assert torch.equal(back.vertices, mesh.vertices) and torch.equal(back.faces, mesh.faces)
    assert torch.equal(back.normals, mesh.normals)
    assert max_difference(back.colors, mesh.colors) <= 0.5 / 255 + 1e-6
    with pytest.raises(ValueError, match="truncated"):
        decode_ply(encode_ply(mesh)[:-1])
    for other in (b"ply\nend_header\n", b""):
        with pytest.raises(ValueError, match="not a mesh written by limbeck"):
            decode_ply(other)


def test_linear_and_srgb_are_inverse() -> None:
    colors = torch.linspace(0, 1, 300)[:, None].expand(300, 3).double()
    error = np.abs(linear_to_srgb(srgb_to_linear(colors).numpy()) - colors.numpy())
    assert error.max() < 1e-6


# mesh cleanup


def test_normals_of_a_ball_point_outwards() -> None:
    coarse, fine = (
        max_difference(unit_vertex_normals(b.vertices, b.faces), b.vertices / RADIUS)
        for b in (ball(3), ball(4))
    )
    assert coarse < 0.02 and fine < 0.6 * coarse, "more accurate on the finer mesh"


def test_normals_that_cancel_point_up() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    normals = unit_vertex_normals(vertices, torch.tensor([[0, 1, 2], [0, 2, 1]]))
    assert torch.equal(normals, torch.tensor([0.0, 1, 0]).expand(3, 3))


def test_small_components_are_dropped_and_the_largest_stays() -> None:
    large, small = ball(3), ball(0, radius=0.1)
    vertices = torch.cat([small.vertices + 2, large.vertices])
    faces = torch.cat([small.faces, large.faces + len(small.vertices)])
    both = Surface(vertices, faces, paint)
    assert len(connected_components(MeshTopology(faces, len(vertices))).unique()) == 2
    kept, num_dropped = drop_small_components(both, 0.02)
    assert num_dropped == 1
    assert torch.equal(kept.vertices, large.vertices) and torch.equal(kept.faces, large.faces)
    assert len(drop_small_components(both, 0)[0].faces) == len(both.faces)
    assert len(drop_small_components(both, 0.999)[0].faces) == len(large.faces)


def test_a_long_chain_is_one_component() -> None:
    line = torch.arange(500)
    strip = torch.stack([line, line + 1, line + 2], 1)[torch.randperm(500, generator=rng())]
    assert (connected_components(MeshTopology(strip, 502)) == 0).all()


def test_decimation_keeps_the_shape() -> None:
    surface = ball(4)
    coarse = decimate(surface, 800)
    assert 400 < len(coarse.faces) <= 800
    mesh = trimesh.Trimesh(coarse.vertices.numpy(), coarse.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert abs(mesh.volume / (4 / 3 * math.pi * RADIUS**3) - 1) < 0.02
    assert (coarse.vertices.norm(dim=1) / RADIUS - 1).abs().max() < 0.02
    assert decimate(surface, len(surface.faces)) is surface
    assert len(decimate(surface, 4).faces) == 4
    vertices = torch.cat([surface.vertices, surface.vertices + 3])
    faces = torch.cat([surface.faces, surface.faces + len(surface.vertices)])
    with pytest.raises(ValueError, match=r"max_faces 6 is too few .* at least 8 are needed"):
        decimate(Surface(vertices, faces, surface.color), 6)


def test_decimation_keeps_edges_and_corners() -> None:
    """A vertex lies where its planes meet; the mean of vertices would cut corners off."""
    surface = cube(16)
    coarse = decimate(surface, 500)
    assert len(coarse.faces) <= 500 < len(surface.faces)
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    assert torch.cdist(corners, coarse.vertices).min(1).values.max() < 1e-4
    assert (coarse.vertices.abs().amax(1) - 0.5).abs().max() < 1e-4


def noisy_surface(resolution: int) -> Surface:
    """A ball and two boxes with rough surfaces, extracted as the surface of a field is."""
    grid = TetGrid(resolution, 1.0)
    points = grid.vertices()
    distance = points.norm(dim=1) - 0.5
    for center, half in (((0.0, -0.6, 0.0), 0.25), ((0.55, 0.1, 0.0), 0.18)):
        box = ((points - torch.tensor(center)).abs() - half).amax(1)
        distance = torch.minimum(distance, box)
    distance = distance + 0.1 * grid.cell_size * torch.randn(len(points), generator=rng())
    distance[grid.boundary_mask()] = 1.0
    vertices, mesh = grid.extract_surface(distance, points)
    return Surface(vertices, mesh.faces, cube_color)


def uv_charts(mesh: TexturedMesh) -> int:
    """Number of charts of a texture."""
    topology = MeshTopology(mesh.faces, len(mesh.vertices))
    return len(connected_components(topology)[mesh.faces[:, 0]].unique())


def test_a_rough_surface_becomes_a_mesh_that_a_person_can_edit() -> None:
    """Closed, as few faces as asked for, charts of a size that can be painted, the same volume."""
    surface = noisy_surface(48)
    before = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
    mesh, _ = MeshExportOptions(texture_size=256, max_faces=5000).to_mesh(surface)
    assert len(surface.faces) > 20_000 and 4_990 <= len(mesh.faces) <= 5_000
    loaded = trimesh.load(io.BytesIO(encode_glb(mesh)), "glb", force="mesh", process=False)
    loaded.merge_vertices(merge_tex=True, merge_norm=True)  # charts duplicate their borders
    assert before.is_watertight and loaded.is_watertight and loaded.is_winding_consistent
    assert loaded.euler_number == before.euler_number
    assert loaded.volume == pytest.approx(before.volume, rel=0.01)
    assert uv_charts(mesh) <= 60


def test_the_summary_tells_open_surfaces_and_counts_charts():
    square = Surface(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        paint,
    )
    mesh = bake_texture(square, 32)
    assert count_charts(mesh) == 1 and not is_closed_surface(mesh.vertices, mesh.faces)
    closed = bake_texture(cube(), 64)
    assert is_closed_surface(closed.vertices, closed.faces) and count_charts(closed) > 1


def test_charts_are_looked_for_again_if_there_are_too_many(monkeypatch):
    """Limits grow until there are few enough, and the best attempt is kept."""
    surface = noisy_surface(24)
    assert len(surface.faces) >= uv_atlas.MIN_SMOOTHED_FACES
    costs, attempts, find_charts = [], [], uv_atlas._find_charts

    def recorded(vertices, faces, size, max_cost):
        costs.append(max_cost)
        attempts.append(find_charts(vertices, faces, size, max_cost))
        return attempts[-1]

    def attempts_with(max_charts):
        """Numbers of charts of all attempts, and the number of the one that is kept."""
        del costs[:], attempts[:]
        monkeypatch.setattr(uv_atlas, "MAX_CHARTS", max_charts)
        kept = bake_texture(surface, 128).faces
        (number,) = (i for i, found in enumerate(attempts) if torch.equal(found[2], kept))
        assert costs == [uv_atlas.MAX_CHART_COST * 4**i for i in range(len(attempts))]
        return [found[0] for found in attempts], number

    monkeypatch.setattr(uv_atlas, "_find_charts", recorded)
    (once,), _ = attempts_with(uv_atlas.MAX_CHARTS)
    counts, kept = attempts_with(once - 1)
    assert kept == len(counts) - 1 > 0 and counts[kept] < once
    assert all(count >= once for count in counts[:-1])
    counts, kept = attempts_with(0)  # never few enough
    assert len(counts) == uv_atlas._MAX_TRIES and counts[kept] == min(counts) < once


def test_quality_chooses_faces_and_texels_unless_they_are_given():
    found = {q: MeshExportOptions(q) for q in ("draft", "standard", "high")}
    assert [(o.face_limit, o.texels) for o in found.values()] == [
        (8_000, 512),
        (30_000, 1024),
        (100_000, 2048),
    ]
    given = MeshExportOptions("high", texture_size=64, max_faces=0)
    assert (given.face_limit, given.texels) == (0, 64)


def test_by_default_an_export_has_at_most_thirty_thousand_faces() -> None:
    assert MeshExportOptions().face_limit == DEFAULT_MAX_FACES == 30_000
    mesh, _ = MeshExportOptions(vertex_colors=True).to_mesh(noisy_surface(64))
    assert 29_990 <= len(mesh.faces) <= 30_000


def test_flat_sides_are_collapsed_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal costs along a plane must not put the edges in line, one behind the other."""
    rounds, collapse_round = [], decimation._Mesh.collapse_round

    def counted(mesh, *arguments):
        rounds.append(len(mesh.faces))
        return collapse_round(mesh, *arguments)

    monkeypatch.setattr(decimation._Mesh, "collapse_round", counted)
    assert len(decimate(cube(32), 2000).faces) == 2000
    assert len(rounds) <= 30


def test_open_borders_stay_where_they_are() -> None:
    vertices, faces = triangulated_square(8)
    flat = torch.cat([vertices, torch.zeros(len(vertices), 1)], 1)
    coarse = decimate(Surface(flat, faces, cube_color), 80)
    border = ((vertices == 0) | (vertices == 1)).any(1)
    assert torch.cdist(flat[border], coarse.vertices).min(1).values.max() == 0
    area = trimesh.Trimesh(coarse.vertices.numpy(), coarse.faces.numpy(), process=False).area
    assert area == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_the_default_export_of_a_trained_duck_can_be_edited(tmp_path: Path) -> None:
    arguments = ["a yellow duck", "--preset", "dreamfusion", "--steps", "200"]
    main(["run", *arguments, "--out", str(tmp_path / "duck"), "--device", "cpu"])
    main(["export", str(tmp_path / "duck"), "--out", str(tmp_path / "duck.glb")])
    mesh = trimesh.load(tmp_path / "duck.glb", force="mesh", process=False)
    faces = torch.from_numpy(np.array(mesh.faces)).long()
    charts = connected_components(MeshTopology(faces, len(mesh.vertices)))[faces[:, 0]].unique()
    assert 20_000 <= len(faces) <= 40_000 and len(charts) <= 300
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    final = (tmp_path / "duck" / "assets" / "step-00200-00-00.ply").read_bytes()
    assert len(decode_ply(final).faces) <= 40_000


# textures


def triangulated_square(cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices and faces of the unit square in ``cells`` x ``cells`` squares."""
    grid = torch.cartesian_prod(torch.arange(cells + 1), torch.arange(cells + 1))
    index = (grid[:, 0] * (cells + 1) + grid[:, 1]).view(cells + 1, -1)
    a = index[:-1, :-1].flatten()
    b, c, d = a + 1, a + cells + 1, a + cells + 2
    return grid / cells, torch.cat([torch.stack([a, b, c], 1), torch.stack([d, c, b], 1)])


@pytest.mark.parametrize("cells", [1, 7])
def test_every_texel_has_the_right_position(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    uv, faces = triangulated_square(cells)
    face, weight = rasterize_uv(uv, faces, 20)
    assert (face >= 0).all()
    row, column = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    expected = (torch.stack([column, row], 2) + 0.5) / 20
    assert max_difference((uv[faces[face]] * weight[..., None]).sum(2), expected) < 1e-6
    monkeypatch.setattr(uv_atlas, "MAX_TEXEL_PAIRS", 50)
    in_chunks = rasterize_uv(uv, faces, 20)
    assert torch.equal(in_chunks[0], face) and torch.equal(in_chunks[1], weight)


def test_a_face_without_area_covers_nothing() -> None:
    uv = torch.tensor([[0.1, 0.1], [0.9, 0.9], [0.5, 0.5], [0.1, 0.9]])
    assert (rasterize_uv(uv, torch.tensor([[0, 1, 2]]), 16)[0] < 0).all()
    face = rasterize_uv(uv, torch.tensor([[0, 1, 2], [0, 1, 3]]), 16)[0]
    assert set(face.unique().tolist()) == {-1, 1}


def test_dilation_repeats_nearby_colors() -> None:
    covered = torch.zeros(33, 21, dtype=torch.bool)
    covered[5:9, 4:8] = True
    covered[20, 15] = True
    uniform = dilate_texture(torch.full((2, 33, 21), 0.3), covered, 2)
    assert max_difference(uniform, torch.full_like(uniform, 0.3)) < 1e-6
    texture = torch.zeros(1, 33, 21)
    texture[0, 20, 15] = 1
    dilated = dilate_texture(texture, covered, 3)[0]
    assert torch.equal(dilated[covered], texture[0][covered]), "covered texels keep their color"
    assert (dilated[17:24, 12:19] == 1).all() and (dilated[2:12, 1:11] == 0).all(), "three rings"
    assert dilate_texture(texture, torch.zeros_like(covered), 2).eq(0).all()


# errors


def test_empty_and_broken_surfaces_are_refused(tmp_path: Path) -> None:
    empty = Surface(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), paint)
    with pytest.raises(ValueError, match="the surface is empty: this particle has no faces"):
        export_asset(empty, tmp_path / "a.glb", "glb")
    broken = ball(0)
    broken.vertices[3, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        export_asset(broken, tmp_path / "a.glb", "glb")
    unpainted = replace(ball(0), color=lambda points: torch.full_like(points, math.nan))
    with pytest.raises(ValueError, match="the asset has colors that are not finite"):
        export_asset(unpainted, tmp_path / "a.glb", "glb", MeshExportOptions(vertex_colors=True))
    splats = replace(cloud(), opacities=torch.full_like(cloud().opacities, math.nan))
    with pytest.raises(ValueError, match="the asset has Gaussians that are not finite"):
        export_asset(splats, tmp_path / "a.ply", "ply")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.obj", "a.mtl", "a.png"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} exists and is not overwritten"):
        export_asset(ball(0), tmp_path / "a.obj", "obj")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texture_size": 8}, r"texture_size must be in \[16, 8192\], not 8"),
        ({"max_faces": 3}, "max_faces must be at least 4"),
        ({"max_faces": -1}, "max_faces must be at least 4"),
        ({"min_component_fraction": 1.0}, r"min_component_fraction must be in \[0, 1\), not 1"),
        (
            {"texture_size": 64, "vertex_colors": True},
            "texture_size 64 has no effect with vertex_colors: leave one of the two out",
        ),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeshExportOptions(**options)


OWN_MESH = MappedMesh((), torch.eye(4))


@pytest.mark.parametrize(
    ("asset", "kind", "options", "message"),
    [
        (ball(0), "ply", {"texture_size": 64}, "texture_size 64 .* which has no texture"),
        (cloud(4), "ply", {"max_faces": 50}, "max_faces 50 .* which holds the splats"),
        (cloud(4), "ply", {"vertex_colors": True}, "vertex_colors True .* which holds the splats"),
        (cloud(4), "ply", {"quality": "high"}, "quality high .* which holds the splats"),
        (
            OWN_MESH,
            "glb",
            {"max_faces": 50},
            "max_faces 50 .* which keeps its faces",
        ),
        (
            OWN_MESH,
            "obj",
            {"min_component_fraction": 0.5},
            "min_component_fraction 0.5 .* which keeps its faces",
        ),
        (
            OWN_MESH,
            "ply",
            {"quality": "high"},
            "quality high .* with vertex colors",
        ),
    ],
)
def test_options_without_effect_are_refused(
    asset: Surface | MappedMesh | Splats,
    kind: ExportFormat,
    options: dict,
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        export_asset(asset, tmp_path / f"a.{kind}", kind, MeshExportOptions(**options))
    assert not list(tmp_path.iterdir())


# the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ball"
    experiment = Experiment(
        ("red disc", "blue ring"),
        model="gaussians",
        representation=Ball(),
        particles=2,
        batch_size=3,
        steps=4,
    )
    record(experiment, load("gaussians"), folder, RecordingOptions(image_every=2))
    return folder


def test_the_command_writes_the_chosen_particle(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.glb"
    assert main(["export", str(run), "--particle", "2", "--vertex-colors", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert printed.err == "particle 2 after step 4: 320 faces with vertex colors, watertight\n"
    representation = reopen_run(run, "cpu").representation
    tints = [representation.params["tint"][i].detach() for i in range(4)]
    assert max_difference(tints[2], tints[0]) > 1e-3, "the test can tell particles apart"
    colors = read_vertex_colors(open_mesh(out), "glb")
    errors = [np.abs(colors - paint(ball(2).vertices, tints[i]).numpy()).mean() for i in (2, 0)]
    assert errors[0] < 0.005 < errors[1]


def test_all_particles_and_default_paths(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", str(run), "--particle", "all", "--format", "ply", "--out", str(tmp_path)]
    assert main(argv) == 0
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["00-00.ply", "00-01.ply", "01-00.ply", "01-01.ply"]
    argv = ["export", str(run), "--texture-size", "32", "--format=obj"]
    assert main(argv) == 0
    names = sorted(p.name for p in (run / "export").iterdir())
    assert names == ["00-00.mtl", "00-00.obj", "00-00.png"]
    capsys.readouterr()
    assert "exists and is not overwritten" in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "give one run folder, not 0: limbeck export runs/NAME"),
        (("RUN", "RUN"), "give one run folder, not 2"),
        (("RUN/assets",), "is not a run folder: it has no run.yaml"),
        (("RUN/run.yaml",), "run.yaml is a file: give the run folder"),
        (("RUN/..",), "it contains run folders, such as "),
        (("RUN/nowhere",), "there is no folder "),
        (("RUN", "--particle", "4"), "--particle must be 0 to 3 or all, not 4"),
        (("RUN", "--particle", "-1"), "--particle must be 0 to 3 or all, not -1"),
        (("RUN", "--particle", "some"), "--particle must be"),
        (("RUN", "--format", "fbx"), "--format must be one of glb, obj, ply"),
        (("RUN", "--out", "a.stl"), "--out a.stl must end in .glb, .obj or .ply"),
        (("RUN", "--out", "a.glb", "--format", "obj"), "--out a.glb must end in .obj"),
        (("RUN", "--texture-size", "9000"), "--texture-size must be in [16, 8192]"),
    ],
)
def test_the_command_refuses_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, "export", *(word.replace("RUN", str(run)) for word in argv))


def test_2d_runs_have_nothing_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "flat"
    record(Experiment(("red disc",), model="gaussians", steps=1), load("gaussians"), folder)
    capsys.readouterr()
    for command in ("export", "view"):
        message = refused(capsys, command, str(folder))
        assert "latents are 2D, without a surface or splats" in message
    assert not (folder / "assets").exists()
    argv = ["run", "red disc", "--model", "gaussians", "--viewer", "--out", str(tmp_path / "x")]
    assert "latents are 2D" in refused(capsys, *argv)


def test_empty_and_unfinished_runs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, empty = tmp_path / "empty", Ball(kind="nothing")
    experiment = Experiment(("red disc",), model="gaussians", representation=empty, steps=1)
    record(experiment, load("gaussians"), folder)
    capsys.readouterr()
    assert "the surface is empty" in refused(capsys, "export", str(folder))
    message = refused(capsys, "view", str(folder))
    assert "after step 1: the surface is empty" in message
    (folder / "checkpoint.safetensors").unlink()
    assert "has no checkpoint yet" in refused(capsys, "export", str(folder))


def test_splats_are_exported_as_ply_and_their_surface_as_glb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, splats = tmp_path / "run", Ball(kind="splats")
    experiment = Experiment(("red disc",), model="gaussians", representation=splats, steps=1)
    record(experiment, load("gaussians"), folder)
    assert main(["export", str(folder), "--out", str(tmp_path / "a.ply")]) == 0
    assert "400 splats" in capsys.readouterr().err and not list(tmp_path.glob("*.part"))
    back, expected = read_gaussian_ply(tmp_path / "a.ply"), cloud()
    assert max_difference(back.means, expected.means) < 1e-6
    assert max_difference(back.scales, expected.scales) < 1e-6
    assert main(["export", str(folder), "--quality", "draft"]) == 0
    assert "watertight" in capsys.readouterr().err
    radius = np.linalg.norm(open_mesh(folder / "export" / "00-00.glb").vertices, axis=1)
    assert abs(np.median(radius) - RADIUS) < 0.06
    shapes = ((3,), (3,), (4,), (), (3,))
    with pytest.raises(ValueError, match="no Gaussians"):
        export_asset(
            Splats(*(torch.zeros(0, *shape) for shape in shapes)), tmp_path / "b.ply", "ply"
        )
