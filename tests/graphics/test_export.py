"""Exported files, opened by another library and looked at through rays of our own, show the thing that was exported."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from mesh_rays import rays
from painted_ball import RADIUS, Ball, ball, cloud, paint
from refusals import refused
from tiny_pipeline import rng, worst

from limbeck import Experiment
from limbeck.cli.main import main
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.export import uv_atlas as atlas_module
from limbeck.graphics.export.export import MeshExportOptions, export
from limbeck.graphics.export.mesh_cleanup import fewer, parts_of, vertex_normals, without_crumbs
from limbeck.graphics.export.uv_atlas import padded, raster, textured
from limbeck.graphics.export.writers import glb, linear, ply, read_ply
from limbeck.graphics.geometry.solids import Splats, Surface
from limbeck.priors.loading import load
from limbeck.runs.recorder import record

SIDES = torch.tensor(
    [
        [0.9, 0.1, 0.1],
        [0.1, 0.8, 0.1],
        [0.1, 0.2, 0.9],
        [0.9, 0.8, 0.1],
        [0.8, 0.1, 0.8],
        [0.1, 0.8, 0.8],
    ]
)


def by_side(points):
    """A colour for each of the six sides of a cube."""
    axis = points.abs().argmax(1)
    return SIDES[2 * axis + (points.gather(1, axis[:, None])[:, 0] < 0).long()]


def cube(cuts: int = 1) -> Surface:
    """A cube of side 1, each side in ``cuts`` x ``cuts`` squares."""
    made = trimesh.creation.box(extents=(1, 1, 1))
    for _ in range(int(math.log2(cuts))):
        made = made.subdivide()
    return Surface(torch.tensor(made.vertices).float(), torch.tensor(made.faces).long(), by_side)


def opened(path: Path) -> trimesh.Trimesh:
    """The one mesh of a file, which stands where the world is."""
    scene = trimesh.load_scene(path, process=False)
    (node,) = scene.graph.nodes_geometry
    place, name = scene.graph[node]
    assert (place == np.eye(4)).all()
    return scene.geometry[name]


def vertex_colours(mesh: trimesh.Trimesh, kind: str) -> np.ndarray:
    """sRGB in [0, 1]; a .glb holds light."""
    if kind == "glb":
        return display(np.asarray(mesh.visual.vertex_attributes["color"], np.float64))
    return np.asarray(mesh.visual.vertex_colors)[:, :3] / 255


def display(light: np.ndarray) -> np.ndarray:
    """sRGB of light."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def look_up(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear, v downwards, clamped at the borders: what a GPU does."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    at = lambda dx, dy: texture[(top + dy).clip(0, height - 1), (left + dx).clip(0, width - 1)]  # noqa: E731
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    return (1 - fy) * ((1 - fx) * at(0, 0) + fx * at(1, 0)) + fy * (
        (1 - fx) * at(0, 1) + fx * at(1, 1)
    )


def colour_at(mesh: trimesh.Trimesh, face: np.ndarray, weight: np.ndarray, kind: str) -> np.ndarray:
    """Colours in [0, 1] of points of faces, as trimesh read them."""
    blend = lambda values: (values[mesh.faces[face]] * weight[..., None]).sum(1)  # noqa: E731
    if mesh.visual.kind == "vertex" or "color" in mesh.visual.vertex_attributes:
        return blend(vertex_colours(mesh, kind))
    material = mesh.visual.material
    image = material.baseColorTexture if kind == "glb" else material.image
    uv = blend(mesh.visual.uv)  # trimesh has v upwards
    return look_up(np.asarray(image.convert("RGB")) / 255, np.stack([uv[:, 0], 1 - uv[:, 1]], 1))


# the files


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
@pytest.mark.parametrize("coloured", [False, True])
def test_a_camera_sees_the_same_in_the_file_as_in_the_thing(
    tmp_path: Path, kind: str, coloured: bool
) -> None:
    """Colour, place, size and orientation at once: each of four cameras sees the paint of the side it looks at."""
    export(
        ball(),
        tmp_path / f"ball.{kind}",
        kind,
        MeshExportOptions(texture=128, vertex_colours=coloured),
    )
    mesh = opened(tmp_path / f"ball.{kind}")
    assert (tmp_path / "ball.png").exists() == (kind == "obj" and not coloured)
    for camera in (turntable_cameras(4, 20, 3, 40)[slice(i, i + 1)] for i in range(4)):
        face, weight, points = rays(mesh, camera, 24)
        hit = face >= 0
        error = np.abs(
            colour_at(mesh, face[hit], weight[hit], kind) - paint(torch.tensor(points[hit])).numpy()
        )
        assert hit.sum() > 100 and error.mean() < 0.005 and error.max() < 0.03, (
            error.mean(),
            error.max(),
        )
        toward = camera.eye[0].double().numpy() / 3
        nearest = points[hit][(points[hit] @ toward).argmax()]
        assert np.abs(nearest - RADIUS * toward).max() < 0.08


def test_the_front_of_a_cube_is_what_a_camera_on_z_sees(tmp_path: Path) -> None:
    export(cube(), tmp_path / "cube.glb", "glb", MeshExportOptions(texture=64))
    mesh = opened(tmp_path / "cube.glb")
    for i, side in enumerate((4, 0, 5, 1)):  # +z, +x, -z, -x
        face, weight, _ = rays(mesh, turntable_cameras(4, 0, 3, 10)[slice(i, i + 1)], 5)
        assert (face >= 0).all()
        assert np.abs(colour_at(mesh, face, weight, "glb") - SIDES[side].numpy()).max() < 1 / 255


def test_no_seam_shows(tmp_path: Path) -> None:
    """Where charts end, a bilinear look-up mixes in texels outside: with padding these have the colour of the chart."""
    mesh = textured(cube(), 64)
    assert mesh.uv is not None and mesh.texture is not None
    share = torch.rand(len(mesh.faces), 200, 3, generator=rng()).pow(6)  # near edges and corners
    share = share / share.sum(2, keepdim=True)
    share = 0.002 / 3 + 0.998 * share
    points = torch.einsum("fnk,fkc->fnc", share, mesh.vertices[mesh.faces]).reshape(-1, 3)
    uv = torch.einsum("fnk,fkc->fnc", share, mesh.uv[mesh.faces]).reshape(-1, 2).numpy()
    wanted = by_side(points).numpy()
    assert np.abs(look_up(mesh.texture.permute(1, 2, 0).numpy(), uv) - wanted).max() < 1e-5
    bare = mesh.texture * (raster(mesh.uv, mesh.faces, 64)[0] >= 0)
    assert np.abs(look_up(bare.permute(1, 2, 0).numpy(), uv) - wanted).max() > 0.2, (
        "without padding it would"
    )


def test_colours_are_written_as_they_are_shown(tmp_path: Path) -> None:
    """No gamma twice: a texture holds sRGB bytes, the vertices of glTF hold light."""
    colour = torch.tensor([0.02, 0.25, 0.8])
    plain = Surface(
        *(lambda b: (b.vertices, b.faces))(ball(1)), lambda points: colour.expand(len(points), 3)
    )
    export(plain, tmp_path / "t.glb", "glb", MeshExportOptions(texture=32))
    picture = np.asarray(opened(tmp_path / "t.glb").visual.material.baseColorTexture)
    assert (picture == (colour * 255).round().numpy()).all(), "every texel, also between the charts"
    export(plain, tmp_path / "v.glb", "glb", MeshExportOptions(vertex_colours=True))
    document, binary = chunks((tmp_path / "v.glb").read_bytes())
    accessor = document["accessors"][
        document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    ]
    view = document["bufferViews"][accessor["bufferView"]]
    light = np.frombuffer(binary, "<f4", 3 * accessor["count"], view["byteOffset"]).reshape(-1, 3)
    assert np.abs(display(light.astype(np.float64)) - colour.numpy()).max() < 1e-6
    assert np.abs(light[0, 1] - ((0.25 + 0.055) / 1.055) ** 2.4) < 1e-6
    export(plain, tmp_path / "v.ply", "ply")
    assert (
        opened(tmp_path / "v.ply").visual.vertex_colors[:, :3] == (colour * 255).round().numpy()
    ).all()


def chunks(data: bytes) -> tuple[dict, bytes]:
    magic, version, length, first, kind = struct.unpack_from("<4sIIII", data)
    second, binary = struct.unpack_from("<II", data, 20 + first)
    assert (magic, version, length, kind, binary) == (b"glTF", 2, len(data), 0x4E4F534A, 0x004E4942)
    assert first % 4 == 0 and second % 4 == 0 and 28 + first + second == length
    return json.loads(data[20 : 20 + first]), data[28 + first :]


@pytest.mark.parametrize(
    "shape", [MeshExportOptions(texture=32), MeshExportOptions(vertex_colours=True)]
)
def test_a_glb_keeps_the_rules_of_gltf(shape: MeshExportOptions) -> None:
    mesh, _ = shape.mesh(ball(1))
    document, binary = chunks(glb(mesh))
    assert (
        document["buffers"] == [{"byteLength": len(binary)}]
        and document["asset"]["version"] == "2.0"
    )
    width = {"VEC3": 12, "VEC2": 8, "SCALAR": 4}
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert (
            view["byteOffset"] % 4 == 0
            and view["byteLength"] >= accessor["count"] * width[accessor["type"]]
        )
    place = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    assert (
        place["min"] == mesh.vertices.amin(0).tolist()
        and place["max"] == mesh.vertices.amax(0).tolist()
    )
    material = document["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0 and 0.5 <= material["roughnessFactor"] <= 1
    assert "extensionsUsed" not in document and chunks(glb(mesh, unlit=True))[0][
        "extensionsUsed"
    ] == ["KHR_materials_unlit"]
    assert worst(mesh.normals.norm(dim=1), torch.ones(len(mesh.normals))) < 1e-5


def test_an_obj_names_its_picture(tmp_path: Path) -> None:
    said = export(ball(1), tmp_path / "new" / "a.obj", "obj", MeshExportOptions(texture=32))
    assert said == "80 faces with a texture of 32 x 32"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.mtl", "a.obj", "a.png"], (
        "and no half files"
    )
    assert "mtllib a.mtl" in (tmp_path / "new" / "a.obj").read_text()
    assert "map_Kd a.png" in (tmp_path / "new" / "a.mtl").read_text()


def test_a_ply_reads_back(tmp_path: Path) -> None:
    mesh, _ = MeshExportOptions(vertex_colours=True).mesh(ball(2))
    back = read_ply(ply(mesh))
    assert torch.equal(back.vertices, mesh.vertices) and torch.equal(back.faces, mesh.faces)
    assert (
        torch.equal(back.normals, mesh.normals)
        and worst(back.colours, mesh.colours) <= 0.5 / 255 + 1e-6
    )
    for bad, why in (
        (ply(mesh)[:-1], "cut short"),
        (b"ply\nend_header\n", "no mesh that limbeck wrote"),
        (b"", "no mesh"),
    ):
        with pytest.raises(ValueError, match=why):
            read_ply(bad)


def test_light_is_the_inverse_of_display() -> None:
    colours = torch.linspace(0, 1, 300)[:, None].expand(300, 3).double()
    assert np.abs(display(linear(colours).numpy()) - colours.numpy()).max() < 1e-6


# surfaces


def test_normals_of_a_ball_point_outwards() -> None:
    coarse, fine = (
        worst(vertex_normals(b.vertices, b.faces), b.vertices / RADIUS) for b in (ball(3), ball(4))
    )
    assert coarse < 0.02 and fine < 0.6 * coarse, "and the better, the finer"


def test_crumbs_go_and_the_largest_part_stays() -> None:
    whole, crumb = ball(3), ball(0, radius=0.1)
    both = Surface(
        torch.cat([crumb.vertices + 2, whole.vertices]),
        torch.cat([crumb.faces, whole.faces + len(crumb.vertices)]),
        paint,
    )
    assert len(parts_of(len(both.vertices), both.faces).unique()) == 2
    kept, dropped = without_crumbs(both, 0.02)
    assert (
        dropped == 1
        and torch.equal(kept.vertices, whole.vertices)
        and torch.equal(kept.faces, whole.faces)
    )
    assert len(without_crumbs(both, 0)[0].faces) == len(both.faces)
    assert len(without_crumbs(both, 0.999)[0].faces) == len(whole.faces)


def test_a_long_chain_is_one_part() -> None:
    strip = torch.stack([torch.arange(500), torch.arange(500) + 1, torch.arange(500) + 2], 1)[
        torch.randperm(500, generator=rng())
    ]
    assert (parts_of(502, strip) == 0).all()


def test_fewer_faces_keep_the_shape() -> None:
    thing = ball(4)
    few = fewer(thing, 800)
    assert 400 < len(few.faces) <= 800
    made = trimesh.Trimesh(few.vertices.numpy(), few.faces.numpy(), process=False)
    assert made.is_watertight and made.is_winding_consistent
    assert abs(made.volume / (4 / 3 * math.pi * RADIUS**3) - 1) < 0.02
    assert (few.vertices.norm(dim=1) / RADIUS - 1).abs().max() < 0.02
    assert fewer(thing, len(thing.faces)) is thing
    with pytest.raises(ValueError, match="faces 4 is too few"):
        fewer(thing, 4)


def test_fewer_faces_keep_edges_and_corners() -> None:
    """Quadrics place the vertex of a cell where its planes meet; the mean of vertices would cut the corners off."""
    thing = cube(16)
    few = fewer(thing, 500)
    assert len(few.faces) <= 500 < len(thing.faces)
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    assert torch.cdist(corners, few.vertices).min(1).values.max() < 1e-4
    assert (few.vertices.abs().amax(1) - 0.5).abs().max() < 1e-4


# the texture


def sheet(cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The unit square in triangles."""
    place = torch.cartesian_prod(torch.arange(cells + 1), torch.arange(cells + 1))
    first = (place[:, 0] * (cells + 1) + place[:, 1]).view(cells + 1, -1)[:-1, :-1].flatten()
    a, b, c, d = first, first + 1, first + cells + 1, first + cells + 2
    return place / cells, torch.cat([torch.stack([a, b, c], 1), torch.stack([d, c, b], 1)])


@pytest.mark.parametrize("cells", [1, 7])
def test_every_texel_knows_its_place(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    uv, faces = sheet(cells)
    owner, weight = raster(uv, faces, 20)
    assert (owner >= 0).all()
    row, column = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    assert (
        worst(
            (uv[faces[owner]] * weight[..., None]).sum(2),
            (torch.stack([column, row], 2) + 0.5) / 20,
        )
        < 1e-6
    )
    monkeypatch.setattr(atlas_module, "PAIRS", 50)
    again = raster(uv, faces, 20)
    assert torch.equal(again[0], owner) and torch.equal(again[1], weight), "in parts the same"


def test_a_face_without_area_covers_nothing() -> None:
    uv = torch.tensor([[0.1, 0.1], [0.9, 0.9], [0.5, 0.5], [0.1, 0.9]])
    assert (raster(uv, torch.tensor([[0, 1, 2]]), 16)[0] < 0).all()
    owner = raster(uv, torch.tensor([[0, 1, 2], [0, 1, 3]]), 16)[0]
    assert set(owner.unique().tolist()) == {-1, 1}


def test_padding_repeats_what_is_near() -> None:
    covered = torch.zeros(33, 21, dtype=torch.bool)
    covered[5:9, 4:8] = True
    covered[20, 15] = True
    one = padded(torch.full((2, 33, 21), 0.3), covered, 2)
    assert worst(one, torch.full_like(one, 0.3)) < 1e-6, "a colour alone fills all"
    picture = torch.zeros(1, 33, 21)
    picture[0, 20, 15] = 1
    out = padded(picture, covered, 3)[0]
    assert torch.equal(out[covered], picture[0][covered]), "what was there stays"
    assert (out[17:24, 12:19] == 1).all() and (out[2:12, 1:11] == 0).all(), "three rings"
    assert padded(picture, torch.zeros_like(covered), 2).eq(0).all()


# what cannot be exported


def test_what_is_empty_or_broken_is_refused(tmp_path: Path) -> None:
    nothing = Surface(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), paint)
    with pytest.raises(ValueError, match="the surface is empty: this particle has no face"):
        export(nothing, tmp_path / "a.glb", "glb")
    bad = ball(0)
    bad.vertices[3, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        export(bad, tmp_path / "a.glb", "glb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.obj", "a.mtl", "a.png"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} is there already and nothing is overwritten"):
        export(ball(0), tmp_path / "a.obj", "obj")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("options", "why"), [
    ({"texture": 8}, "texture takes 16 to 8192 texels along a side, not 8"), ({"faces": 3}, "faces is at least 4"),
    ({"faces": -1}, "faces is at least 4"), ({"crumbs": 1.0}, r"crumbs is a share of the faces in \[0, 1\), not 1"),
])  # fmt: skip
def test_shapes_that_cannot_be(options: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MeshExportOptions(**options)


# the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ball"
    made = Experiment(
        ("red disc", "blue ring"),
        model="gaussians",
        representation=Ball(),
        particles=2,
        batch_size=3,
        steps=4,
    )
    record(made, load("gaussians"), folder, every=2)
    return folder


def test_the_command_writes_the_particle_asked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from limbeck.runs.reopen import reopen_run

    out = tmp_path / "b.glb"
    assert main(["export", str(run), "--particle", "2", "--vertex-colours", "--out", str(out)]) == 0
    conditions = capsys.readouterr()
    assert (
        conditions.out == f"{out}\n"
        and conditions.err == "particle 2 after step 4: 320 faces with coloured vertices\n"
    )
    kept = reopen_run(run, "cpu").representation
    tints = [kept.parts["tint"][i].detach() for i in range(4)]
    assert worst(tints[2], tints[0]) > 1e-3, "else the test could not tell particles apart"
    colours = vertex_colours(opened(out), "glb")
    wanted = paint(ball(2).vertices, tints[2]).numpy()
    assert (
        np.abs(colours - wanted).mean()
        < 0.005
        < np.abs(colours - paint(ball(2).vertices, tints[0]).numpy()).mean()
    )


def test_all_particles_and_default_places(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["export", str(run), "--particle", "all", "--format", "ply", "--out", str(tmp_path)])
        == 0
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00-00.ply",
        "00-01.ply",
        "01-00.ply",
        "01-01.ply",
    ]
    assert main(["export", str(run), "--texture", "32", "--format=obj"]) == 0
    assert sorted(p.name for p in (run / "export").iterdir()) == [
        "00-00.mtl",
        "00-00.obj",
        "00-00.png",
    ]
    capsys.readouterr()
    assert "nothing is overwritten" in refused(
        capsys, "export", str(run), "--texture", "32", "--format=obj"
    )


@pytest.mark.parametrize(("argv", "why"), [
    ((), "one run folder is wanted, not 0: limbeck export runs/NAME"),
    (("RUN", "RUN"), "one run folder is wanted, not 2"),
    (("RUN/solids",), "is no run folder: it has no run.yaml"), (("RUN/run.yaml",), "run.yaml is a file: name the run folder"),
    (("RUN/..",), "it holds runs, such as "), (("RUN/nowhere",), "there is no folder "),
    (("RUN", "--particle", "4"), "--particle 4: this run has 4, counted from 0; or all"),
    (("RUN", "--particle", "-1"), "--particle -1: this run has 4"),
    (("RUN", "--particle", "some"), "--particle must be a whole number or one of all, not 'some'"),
    (("RUN", "--format", "fbx"), "--format must be one of glb, obj, ply"),
    (("RUN", "--out", "a.stl"), "--out a.stl must end in .glb, .obj or .ply"),
    (("RUN", "--out", "a.glb", "--format", "obj"), "--out a.glb does not end in .obj"),
    (("RUN", "--texture", "9000"), "texture takes 16 to 8192"),
])  # fmt: skip
def test_the_command_refuses_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], why: str
) -> None:
    assert why in refused(capsys, "export", *(word.replace("RUN", str(run)) for word in argv))


def test_flat_empty_and_unfinished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(
        Experiment(("red disc",), model="gaussians", steps=1), load("gaussians"), tmp_path / "flat"
    )
    capsys.readouterr()
    for verb in ("export", "view"):
        assert "latents are flat, without a surface or splats" in refused(
            capsys, verb, str(tmp_path / "flat")
        )
    assert not (tmp_path / "flat" / "solids").exists()
    empty = Experiment(
        ("red disc",), model="gaussians", representation=Ball(kind="nothing"), steps=1
    )
    record(empty, load("gaussians"), tmp_path / "empty")
    capsys.readouterr()
    assert "the surface is empty" in refused(capsys, "export", str(tmp_path / "empty"))
    conditions = refused(capsys, "view", str(tmp_path / "empty"))
    assert "nothing to look at after step 1: the surface is empty" in conditions
    (tmp_path / "empty" / "checkpoint.safetensors").unlink()
    assert "holds no checkpoint yet" in refused(capsys, "export", str(tmp_path / "empty"))
    assert "latents are flat" in refused(
        capsys, "run", "red disc", "--model", "gaussians", "--view", "--out", str(tmp_path / "x")
    )


def test_splats_become_splats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = pytest.importorskip("limbeck.graphics.geometry.ply")
    made = Experiment(("red disc",), model="gaussians", representation=Ball(kind="splats"), steps=1)
    record(made, load("gaussians"), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "a.ply")]) == 0
    assert "400 splats" in capsys.readouterr().err and not list(tmp_path.glob("*.part"))
    back, wanted = reader.read_ply(tmp_path / "a.ply"), cloud()
    assert worst(back.mean, wanted.mean) < 1e-6 and worst(back.scale, wanted.scale) < 1e-6
    assert "splats have no surface that .glb could hold" in refused(
        capsys, "export", str(tmp_path / "run"), "--format", "glb"
    )
    with pytest.raises(ValueError, match="no splat"):
        export(
            Splats(*(torch.zeros(0, *shape) for shape in ((3,), (3,), (4,), (), (3,)))),
            tmp_path / "b.ply",
            "ply",
        )
