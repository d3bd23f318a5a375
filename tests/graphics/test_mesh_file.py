"""Reading of meshes of other programs, compared with trimesh, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from own_meshes import checkered, mapped_box, node_scene, write_own_meshes
from PIL import Image
from trimesh.visual import TextureVisuals

from limbeck.graphics.export.mesh_cleanup import TexturedMesh
from limbeck.graphics.export.uv_checks import uv_problem
from limbeck.graphics.export.writers import encode_glb, encode_obj_parts
from limbeck.graphics.geometry import mesh_file
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    face_normals,
    mesh_volume,
    smooth_displacements,
)
from limbeck.graphics.geometry.mesh_file import read_mesh_file
from limbeck.graphics.geometry.mesh_fit import fit_mesh
from limbeck.graphics.rendering.mesh_colors import MeshFileColors
from limbeck.graphics.rendering.texture_sampling import build_mipmaps, sample_texture
from limbeck.system.notices import Notice, collect_notices, display_notices


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_own_meshes(tmp_path_factory.mktemp("meshes"))


@pytest.mark.parametrize("name", ["uvs.glb", "plain.glb", "nodes.glb", "box.obj", "ball.ply"])
def test_triangles_are_those_of_the_scene(files: dict[str, Path], name: str) -> None:
    """Node transforms are applied, and mirrored nodes keep their outsides."""
    expected = trimesh.load_scene(files[name], process=False).to_geometry()
    parts = read_mesh_file(files[name])
    triangles = torch.cat([part.vertices[part.faces] for part in parts]).numpy()
    key = np.lexsort(triangles.mean(1).round(4).T)
    other = np.lexsort(expected.triangles.mean(1).round(4).T)
    centers = triangles.mean(1)[key] - expected.triangles.mean(1)[other]
    assert np.abs(centers).max() < 1e-5
    volumes = [mesh_volume(p.vertices, MeshTopology(p.faces, len(p.vertices))) for p in parts]
    assert all(volume > 0 for volume in volumes)
    assert sum(volumes).item() == pytest.approx(abs(expected.volume), rel=1e-5)


def test_materials_are_kept_apart(files: dict[str, Path]) -> None:
    one, two, ball = read_mesh_file(files["nodes.glb"])
    assert (one.name, two.name) == ("a", "b") and one.has_colors and not ball.has_colors
    for part, shift in ((one, 0), (two, 1)):
        assert part.texture is not None
        expected = torch.from_numpy(np.array(checkered(shift))).permute(2, 0, 1) / 255
        assert torch.equal(part.texture, expected)
    assert one.uv is not None and ball.uv is None
    top_left = torch.tensor(mapped_box().visual.uv).float() * torch.tensor([1.0, -1.0])
    assert torch.allclose(one.uv, top_left + torch.tensor([0.0, 1.0]), atol=1e-6)


def test_two_nodes_of_one_material_are_one_part(tmp_path: Path) -> None:
    scene, box = trimesh.Scene(), mapped_box()
    for i in range(2):
        scene.add_geometry(
            box,
            node_name=str(i),
            transform=trimesh.transformations.translation_matrix([3 * i, 0, 0]),
        )
    scene.export(tmp_path / "twice.glb")
    (part,) = read_mesh_file(tmp_path / "twice.glb")
    assert len(part.faces) == 24
    assert uv_problem(part.uv, part.faces) == "uses parts of its texture twice"


def test_a_mesh_without_texture_coordinates_leaves_those_of_its_material(tmp_path: Path) -> None:
    scene, box = trimesh.Scene(), mapped_box()
    bare = box.copy()
    bare.visual = TextureVisuals(material=box.visual.material)
    _ = box.vertex_normals  # which the export then writes
    scene.add_geometry(box, node_name="a")
    scene.add_geometry(bare, node_name="b")
    scene.export(tmp_path / "mixed.glb")
    parts = read_mesh_file(tmp_path / "mixed.glb")
    plain, mapped = sorted(parts, key=lambda part: part.uv is not None)
    assert mapped.uv is not None and mapped.texture is not None and plain.uv is None
    assert {part.name for part in parts} == {"paint", "paint-2"}


def test_a_piece_without_normals_leaves_those_of_the_others() -> None:
    (part,) = pieces = [mesh_file.MeshPart("a", *_triangle())]
    normals = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    both = mesh_file._concat_parts([replace(part, normals=normals), *pieces])
    assert both.normals is not None and torch.equal(both.normals[:3], normals)
    assert not both.normals[3:].any()  # computed ones take their place


def _triangle() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    return corners, torch.tensor([[0, 1, 2]]), torch.ones(3, 3)


def test_texture_coordinates_without_a_material_leave_the_vertex_colors(tmp_path: Path) -> None:
    """trimesh's gray for a missing material is no color of the file."""
    rows = ["0 0 0 0 0 255 0 0", "1 0 0 1 0 0 255 0", "0 1 0 0 1 0 0 255"]
    names = [f"property float {name}\n" for name in "xyzst"]
    names += [f"property uchar {name}\n" for name in ("red", "green", "blue")]
    head = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(names) + _PLY_FACE
    (tmp_path / "colored.ply").write_text(head + "\n".join(rows) + "\n3 2 0 1\n")
    (part,) = read_mesh_file(tmp_path / "colored.ply")
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    place = (part.vertices[:, :2] @ torch.tensor([1.0, 2.0]).double()).long()
    assert torch.equal(part.colors, expected[place]) and part.uv is not None
    points = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"
    (tmp_path / "plain.obj").write_text("mtllib gone.mtl\nusemtl red\n" + points)
    with pytest.warns(Notice, match="gone.mtl, but there is no such file"):
        (part,) = read_mesh_file(tmp_path / "plain.obj")
    assert not part.has_colors and part.uv is not None
    (tmp_path / "gone.mtl").write_text("newmtl red\nKd 1 0 0\nmap_Kd gone.png\n")
    with pytest.warns(Notice, match="gone.png, but there is no such file"):
        (part,) = read_mesh_file(tmp_path / "plain.obj")
    assert part.texture is None


def test_names_of_materials_stay_distinct_without_their_spaces(tmp_path: Path) -> None:
    vertices, faces, _ = _triangle()
    vertices, uv = vertices.float(), vertices[:, :2].float()
    normals = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    parts = [
        TexturedMesh(vertices + i, normals, faces, None, uv, torch.full((3, 4, 4), i / 2), name)
        for i, name in enumerate(("a b", "a_b"))
    ]
    for path, data in encode_obj_parts(parts, tmp_path / "two.obj").items():
        path.write_bytes(data)
    found = read_mesh_file(tmp_path / "two.obj")
    assert {part.name for part in found} == {"a_b", "a_b-2"}
    textures = {float(part.texture.mean()) for part in found if part.texture is not None}
    assert len(textures) == 2


def test_vertex_colors_are_srgb(files: dict[str, Path]) -> None:
    (ball,) = read_mesh_file(files["ball.ply"])
    expected = ((ball.vertices + 2) / 4 * 255).floor() / 255
    assert (ball.colors - expected).abs().max() < 1.01 / 255


def test_linear_colors_of_gltf_become_srgb(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=1)
    ball.visual.vertex_colors = np.tile([55, 127, 255, 255], (len(ball.vertices), 1)).astype("u1")
    ball.export(tmp_path / "ball.glb")
    (part,) = read_mesh_file(tmp_path / "ball.glb")
    # 0.2157 and 0.498 in linear light are 0.502 and 0.733 by the table of IEC 61966-2-1
    assert (part.colors - torch.tensor([0.502, 0.733, 1.0])).abs().max() < 2e-3


def test_a_fitted_mesh_is_upright_centered_and_scaled(files: dict[str, Path]) -> None:
    """The bounding box decides, not the mean of the vertices: a dense part does not pull."""
    parts = read_mesh_file(files["uvs.glb"])
    mesh = fit_mesh(parts, 0.8, "+y", "+z")
    assert (len(mesh.points), len(mesh.faces), len(mesh.shading_point)) == (8, 12, 24)
    assert torch.allclose(mesh.points.amax(0), torch.tensor([0.4, 0.8, 0.2]))
    assert torch.allclose(mesh.points.amin(0), -torch.tensor([0.4, 0.8, 0.2]))
    lying = fit_mesh(parts, 0.8, "+z", "-y")
    assert torch.allclose(lying.points.amax(0), torch.tensor([0.4, 0.2, 0.8]))
    assert torch.linalg.det(lying.matrix[:3, :3]) > 0  # not mirrored
    back = lying.matrix.inverse()
    places = lying.points.double() @ back[:3, :3].T + back[:3, 3]
    assert (places - parts[0].vertices[lying.welded]).abs().max() < 1e-5


def test_normals_are_sharp_at_edges_and_smooth_elsewhere(tmp_path: Path) -> None:
    can = trimesh.creation.cylinder(radius=1, height=2, sections=32)
    trimesh.Trimesh(can.vertices, can.faces, process=False).export(tmp_path / "can.ply")
    mesh = fit_mesh(read_mesh_file(tmp_path / "can.ply"), 1.0, "+z", "-y")
    flat = face_normals(mesh.points, MeshTopology(mesh.faces, len(mesh.points)))
    is_cap = torch.nn.functional.normalize(flat, dim=1)[:, 1].abs() > 0.99
    assert torch.allclose(mesh.normals[is_cap][..., 1].abs(), torch.ones(int(is_cap.sum()), 3))
    corners = mesh.points[mesh.faces[~is_cap]]
    radial = torch.nn.functional.normalize(corners * torch.tensor([1.0, 0.0, 1.0]), dim=2)
    cosine = (mesh.normals[~is_cap] * radial).sum(2)
    assert cosine.min() > np.cos(np.pi / 32) - 1e-4


def _glb(document: dict) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A)
    return head + text


def _textured(transform: dict, required: Sequence[str] = ()) -> bytes:
    texture = {"index": 0, "extensions": {"KHR_texture_transform": transform}}
    material = {"name": "paint", "pbrMetallicRoughness": {"baseColorTexture": texture}}
    extensions = {
        "extensionsUsed": ["KHR_texture_transform"],
        "extensionsRequired": list(required),
    }
    return _glb({**extensions, "materials": [material]})


def _vertices(accessor: dict, attribute: str) -> bytes:
    mesh = {"primitives": [{"attributes": {attribute: 0}}]}
    return _glb({"accessors": [{"count": 3, **accessor}], "meshes": [mesh]})


_SHORTS = {"componentType": 5123, "normalized": True}
_SECOND = {"baseColorTexture": {"index": 0, "texCoord": 1}}
_PLY = "ply\nformat ascii 1.0\nelement vertex 3\n"
_PLY += "".join(f"property float {name}\n" for name in "xyz")
_PLY_FACE = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
REFUSED = {
    "nothing.glb": (b"", "is empty"),
    "text.glb": (b"not a mesh, but long enough for a header", "does not begin with a glTF header"),
    "cut.glb": (_glb({"asset": {"version": "2.0"}})[:-4], "is damaged"),
    "no_mesh.glb": (_glb({"asset": {"version": "2.0"}, "scenes": [{"nodes": []}]}), ""),
    "draco.glb": (
        _glb({"extensionsRequired": ["KHR_draco_mesh_compression"]}),
        "needs the glTF extension KHR_draco_mesh_compression, which is not read: export it without",
    ),
    "moved.glb": (_textured({"offset": [0.5, 0]}), "texture of the material paint (KHR_texture_tr"),
    "needed.glb": (
        _textured({"scale": [2, 2]}, ["KHR_texture_transform"]),
        "apply it to the texture coordinates before the export",
    ),
    "webp.glb": (_glb({"extensionsRequired": ["EXT_texture_webp"]}), "without this extension"),
    "second.glb": (
        _glb({"materials": [{"name": "paint", "pbrMetallicRoughness": _SECOND}]}),
        "the texture of the material paint from TEXCOORD_1, and only TEXCOORD_0 is read",
    ),
    "second_moved.glb": (_textured({"texCoord": 1}), "from TEXCOORD_1"),
    "short_uv.glb": (_vertices(_SHORTS, "TEXCOORD_0"), "stores texture coordinates as integers"),
    "short_xyz.glb": (_vertices(_SHORTS, "POSITION"), "stores positions as integers"),
    "short_rgb.glb": (_vertices(_SHORTS, "COLOR_0"), "stores vertex colors as integers"),
    "sparse.glb": (_vertices({"sparse": {"count": 1}}, "NORMAL"), "has sparse accessors, which"),
    "fan.glb": (
        _glb({"accessors": [{}], "meshes": [{"primitives": [{"attributes": {}, "mode": 6}]}]}),
        "has triangle fans, which are not read",
    ),
    "accessor.glb": (_vertices({}, "NORMAL").replace(b": 0}", b": 7}"), "is damaged"),
    "points.ply": ((_PLY + "end_header\n0 0 0\n1 0 0\n0 1 0\n").encode(), "has no faces"),
    "nan.ply": ((_PLY + _PLY_FACE + "0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n").encode(), "not finite"),
    "line.ply": ((_PLY + _PLY_FACE + "0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n").encode(), "the area zero"),
    "tiny.ply": (
        (_PLY + _PLY_FACE + "0 0 0\n1e-9 0 0\n0 1e-9 0\n3 0 1 2\n").encode(),
        "1e-09 units long",
    ),
    "point.ply": ((_PLY + _PLY_FACE + "1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n").encode(), "no extent"),
    "index.ply": ((_PLY + _PLY_FACE + "0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n").encode(), ""),
    "words.obj": (b"v 1 2 three\nf 1 1 1\n", "cannot be read as a mesh"),
    "mesh.fbx": (b"fbx", "give one of .glb, .gltf, .obj, .ply"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mesh_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        read_mesh_file(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_texture_transform_that_moves_nothing_is_not_the_reason(tmp_path: Path) -> None:
    content = _textured({"offset": [0.0, 0.0], "scale": [1.0, 1.0]}, ["KHR_texture_transform"])
    (tmp_path / "mesh.glb").write_bytes(content)
    with pytest.raises(ValueError) as caught:  # it has no faces
        read_mesh_file(tmp_path / "mesh.glb")
    assert "KHR_texture_transform" not in str(caught.value)


def test_missing_and_huge_files_are_refused(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"there is no file nowhere\.obj"):
        read_mesh_file(Path("nowhere.obj"))
    monkeypatch.setattr(mesh_file, "MAX_MESH_FACES", 100)
    with pytest.raises(ValueError, match="has 2,048 faces, and at most 100 are taken: reduce them"):
        read_mesh_file(files["plain.glb"])
    monkeypatch.setattr(mesh_file, "MAX_MESH_BYTES", 1000)
    with pytest.raises(ValueError, match="GB are read: reduce its faces first"):
        read_mesh_file(files["plain.glb"])


def test_texture_coordinates_are_kept_only_if_every_point_has_a_texel_of_its_own() -> None:
    box = mapped_box()
    faces, uv = torch.tensor(np.array(box.faces)), torch.tensor(box.visual.uv).float()
    assert uv_problem(uv, faces) == ""
    assert uv_problem(None, faces) == "has none"
    assert uv_problem(uv * 3, faces) == "repeats its texture"
    assert uv_problem(uv * 0.3 % 0.2, faces) == "uses parts of its texture twice"
    assert (
        uv_problem(uv * torch.tensor([1.0, 0.0]), faces) == "has faces without area in the texture"
    )
    assert uv_problem(uv * torch.nan, faces) == "has some that are not finite"


def test_textures_are_sampled_between_texels_and_between_levels() -> None:
    """A ramp along u is linear inside, and level 1 is the mean of pairs."""
    ramp = (torch.arange(8.0) / 8)[None, None].expand(3, 4, 8)
    levels = build_mipmaps(ramp)
    assert [level.shape[1:] for level in levels] == [(4, 8), (2, 4), (1, 2), (1, 1)]
    u = torch.tensor([0.25, 0.3, 0.5])
    uv = torch.stack([u, torch.full((3,), 0.4)], 1)
    for level in (0.0, 0.5, 1.0):
        found = sample_texture(levels, uv, torch.full((3,), level))
        assert torch.allclose(found[:, 0], u - 0.5 / 8, atol=1e-6), level
    repeated = sample_texture(levels, uv + torch.tensor([2.0, -1.0]), torch.zeros(3))
    assert torch.allclose(repeated, sample_texture(levels, uv, torch.zeros(3)), atol=1e-6)
    mean = sample_texture(levels, uv, torch.full((3,), 9.0))
    assert torch.allclose(mean, torch.full((3, 3), 3.5 / 8))


def test_colors_of_faces_are_texture_times_vertex_colors(files: dict[str, Path]) -> None:
    parts = read_mesh_file(files["nodes.glb"])
    colors = MeshFileColors(parts)
    generator = torch.Generator().manual_seed(0)
    face = torch.randint(344, (200,), generator=generator)
    weights = torch.rand(200, 3, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    found = colors(face, weights)
    assert found[face >= 24].min() > 1 - 1e-6  # the ball is white
    for part, start in ((parts[0], 0), (parts[1], 12)):
        rows = ((face >= start) & (face < start + 12)).nonzero().squeeze(1)
        assert part.uv is not None and part.texture is not None
        uv = (part.uv[part.faces[face[rows] - start]] * weights[rows][..., None]).sum(1)
        texel = (uv * 64).long()  # red and green are smooth: the nearest texel is near
        near = part.texture[:, texel[:, 1], texel[:, 0]].T
        smooth = [0, 1] if start == 0 else [1, 2]
        assert len(rows) and (found[rows] - near)[:, smooth].abs().max() < 0.02


def test_displacements_are_smoothed_without_moving_their_mean() -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    mesh = MeshTopology(torch.tensor(np.array(ball.faces)), len(ball.vertices))
    constant = torch.tensor([1.0, 2.0, 3.0]).expand(len(ball.vertices), 3)
    assert torch.allclose(smooth_displacements(constant, mesh, 5), constant)
    spike = torch.zeros(len(ball.vertices), 1)
    spike[7] = 1
    assert smooth_displacements(spike, mesh, 0)[7] == 1
    assert smooth_displacements(spike, mesh, 10).max() < 0.1


def test_the_scene_of_the_tests_has_what_it_claims() -> None:
    transforms = [node_scene().graph[name][0] for name in ("one", "two", "three")]
    determinants = [np.linalg.det(matrix[:3, :3]) for matrix in transforms]
    assert determinants == pytest.approx([1, -1, -1])


_GLOSS = "KHR_materials_pbrSpecularGlossiness"
_SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def _notices_of(path: Path) -> list[str]:
    with display_notices(lambda text: None), collect_notices() as collected:
        read_mesh_file(path)
    return collected


def test_a_material_that_the_first_library_lacks_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    (tmp_path / "b.mtl").write_text("newmtl green\nKd 0 1 0\n")
    faces = "usemtl red\nf 1/1 2/2 3/3\nusemtl green\nf 1/1 3/3 4/4\n"
    (tmp_path / "m.obj").write_text("mtllib a.mtl\nmtllib b.mtl\n" + _SQUARE + faces)
    assert _notices_of(tmp_path / "m.obj") == [
        "m.obj uses the material green, which a.mtl does not define: of its libraries the first "
        "alone is read, not b.mtl"
    ]
    (tmp_path / "m.obj").write_text("mtllib a.mtl\n" + _SQUARE + "usemtl red\nf 1/1 2/2 3/3\n")
    assert _notices_of(tmp_path / "m.obj") == []


def test_a_texture_that_a_face_without_coordinates_drops_is_reported(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "t.png")
    (tmp_path / "a.mtl").write_text("newmtl red\nmap_Kd t.png\n")
    faces = "usemtl red\nf 1/1 2/2 3/3\nf 1 3 4\n"
    (tmp_path / "m.obj").write_text("mtllib a.mtl\n" + _SQUARE + faces)
    assert _notices_of(tmp_path / "m.obj") == [
        "the texture of the material red is not read, since some of its faces have no texture "
        "coordinates"
    ]


def test_a_gray_texture_of_16_bits_keeps_its_gray(tmp_path: Path) -> None:
    gray = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(gray).save(tmp_path / "t.png")
    (tmp_path / "a.mtl").write_text("newmtl red\nmap_Kd t.png\n")
    (tmp_path / "m.obj").write_text("mtllib a.mtl\n" + _SQUARE + "usemtl red\nf 1/1 2/2 3/3\n")
    (part,) = read_mesh_file(tmp_path / "m.obj")
    assert part.texture is not None and part.texture.shape == (3, 4, 4)
    assert np.abs(part.texture.numpy() - gray / 65535).max() < 1e-6


def test_colors_of_the_faces_of_a_ply_stay_those_of_the_faces(tmp_path: Path) -> None:
    """A vertex of a red and a blue face is purple in neither."""
    head = _PLY.replace("vertex 3", "vertex 4") + _PLY_FACE.replace("face 1", "face 2")
    colors = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    head = head.replace("end_header\n", colors + "end_header\n")
    corners = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
    faces = "3 0 1 2 255 0 0\n3 0 2 3 0 0 255\n"
    (tmp_path / "m.ply").write_text(head + corners + faces)
    (part,) = read_mesh_file(tmp_path / "m.ply")
    assert part.colors[part.faces].tolist() == [[[1, 0, 0]] * 3, [[0, 0, 1]] * 3]
    assert part.vertices[part.faces][1].tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 0]]


def _painted_square(tmp_path: Path, scale: float, material: dict, wrap: int) -> Path:
    """A textured square as .glb, with this material and this wrap mode."""
    uv = scale * torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    corners = torch.cat([uv / scale, torch.zeros(4, 1)], 1)
    texture, faces = torch.rand(3, 8, 8), torch.tensor([[0, 1, 2], [0, 2, 3]])
    square = TexturedMesh(corners, torch.ones(4, 3), faces, None, uv, texture, "paint")
    data = encode_glb(square)
    length = int.from_bytes(data[12:16], "little")
    document = json.loads(data[20 : 20 + length])
    document["samplers"][0] |= {"wrapS": wrap, "wrapT": wrap}
    document["materials"][0] |= material
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    (tmp_path / "m.glb").write_bytes(head + text + rest)
    return tmp_path / "m.glb"


def test_textures_that_are_not_repeated_are_refused_beyond_their_borders(tmp_path: Path) -> None:
    clamp, mirror, repeat = 33071, 33648, 10497
    read_mesh_file(_painted_square(tmp_path, 1.0, {}, clamp))
    read_mesh_file(_painted_square(tmp_path, 3.0, {}, repeat))
    for wrap in (clamp, mirror):
        with pytest.raises(ValueError, match="clamps or mirrors the texture of the material paint"):
            read_mesh_file(_painted_square(tmp_path, 3.0, {}, wrap))


@pytest.mark.parametrize(
    ("material", "part"),
    [
        ({"alphaMode": "BLEND"}, "the transparency"),
        ({"emissiveFactor": [1, 1, 1]}, "the emission"),
        (
            {
                "extensions": {
                    "KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [1, 0, 0, 1]}
                }
            },
            "the diffuse factor (KHR_materials_pbrSpecularGlossiness)",
        ),
    ],
)
def test_colors_of_gltf_that_are_not_read_are_named(
    tmp_path: Path, material: dict, part: str
) -> None:
    path = _painted_square(tmp_path, 1.0, material, 10497)
    assert _notices_of(path) == [f"m.glb: {part} of the material paint is not read"]
    assert _notices_of(_painted_square(tmp_path, 1.0, {}, 10497)) == []
