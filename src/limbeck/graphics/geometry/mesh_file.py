"""Meshes of other programs: .glb, .gltf, .obj and .ply, with node transforms applied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.graphics.geometry.gltf_checks import check_gltf, materials_not_repeated
from limbeck.graphics.geometry.obj_checks import notify_missing_obj_files
from limbeck.system.image_files import gray_of_16_bits
from limbeck.system.notices import notify

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
_MIN_EXTENT = 1e-5  #: areas below 1e-10 are lost in single precision
MAX_MESH_FACES = 1_000_000  #: faces of a file; a CPU rasterizes them in about 0.2 s per view
MAX_MESH_BYTES = 1 << 30  #: size of a file
MAX_SOURCE_TEXTURE = 4096  #: larger textures are reduced to this side
_BORDER = 1e-3  #: by which texture coordinates may leave [0, 1] where textures are not repeated
_GLTF_SUFFIXES = (".glb", ".gltf")


@dataclass(frozen=True)
class MeshPart:
    """The faces of one material, in the coordinates of the scene of the file.

    Attributes:
        name: name of the material.
        vertices: ``[V, 3]`` positions.
        faces: ``[F, 3]`` vertex indices.
        colors: ``[V, 3]`` sRGB in [0, 1]; the texture, if there is one, is multiplied by them.
        normals: ``[V, 3]`` unit normals, or zeros where the file has none; None if nowhere.
        uv: ``[V, 2]`` texture coordinates from the top left corner, as glTF; None: none.
        texture: ``[3, H, W]`` sRGB; None if there is none.
    """

    name: str
    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"] | None = None
    uv: Float[Tensor, "v 2"] | None = None
    texture: Float[Tensor, "3 h w"] | None = None

    @property
    def has_colors(self) -> bool:
        """Whether the file says more of the colors than white everywhere."""
        return self.texture is not None or bool((self.colors < 0.995).any())


def read_mesh_file(path: Path) -> tuple[MeshPart, ...]:
    """Read the meshes of a file, one part per material.

    Args:
        path: a .glb, .gltf, .obj or .ply file; materials and textures of an .obj lie beside it.

    Raises:
        ValueError: if the file cannot be read, has no faces, or too many.
    """
    _check_file(path)
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False)
        pieces = [_read_piece(scene, node, path) for node in scene.graph.nodes_geometry]
    except Exception as error:  # whatever a damaged file makes the reader fail with
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ValueError(f"{path} cannot be read as a mesh ({reason})") from error
    by_material: dict[Any, list[MeshPart]] = {}
    for key, piece in (item for item in pieces if item is not None):
        # pieces without texture coordinates are apart: beside them the others would lose theirs
        by_material.setdefault((key, piece.uv is None), []).append(piece)
    parts = tuple(_concat_parts(group) for group in by_material.values())
    _check_parts(path, parts)
    if path.suffix.lower() in _GLTF_SUFFIXES:
        _check_repeats(path, parts)
    return _with_distinct_names(parts)


def _check_file(path: Path) -> None:
    """Refuse what cannot be a mesh, before it is read."""
    if path.suffix.lower() not in MESH_SUFFIXES:
        accepted = ", ".join(MESH_SUFFIXES)
        raise ValueError(f"{path} is no mesh that can be read: give one of {accepted}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}: give a mesh as {', '.join(MESH_SUFFIXES)}")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty")
    if size > MAX_MESH_BYTES:
        raise ValueError(
            f"{path} has {size / 1e9:.1f} GB, and at most {MAX_MESH_BYTES / 1e9:.1f} GB are read: "
            "reduce its faces first, for example with the Decimate modifier of Blender"
        )
    if path.suffix.lower() in _GLTF_SUFFIXES:
        check_gltf(path)
    if path.suffix.lower() == ".obj":
        notify_missing_obj_files(path)


def _read_piece(scene: Any, node: str, path: Path) -> tuple[Any, MeshPart] | None:
    """Key of the material, and the faces of one node in the coordinates of the scene."""
    import trimesh

    matrix, name = scene.graph[node]
    mesh = scene.geometry[name]
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        return None  # points or lines
    # only normals of the file: trimesh would otherwise compute smooth ones; it keeps both there
    normals = mesh.vertex_normals if "vertex_normals" in mesh._cache else None
    if mesh.visual.kind == "face":
        mesh = _with_own_corners(mesh)
    linear = matrix[:3, :3]
    faces = np.asarray(mesh.faces)
    if np.linalg.det(linear) < 0:  # a mirrored node turns faces inside out
        faces = faces[:, ::-1]
    vertices = np.asarray(mesh.vertices) @ linear.T + matrix[:3, 3]
    if normals is not None:
        normals = np.asarray(normals) @ np.linalg.pinv(linear)
        normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    key, colors, uv, texture = _appearance(mesh, path.suffix.lower() in _GLTF_SUFFIXES)
    return key, MeshPart(
        str(key[0] or "surface"),
        torch.tensor(vertices, dtype=torch.float64),
        torch.tensor(faces.copy()).long(),
        colors,
        None if normals is None else torch.tensor(normals).float(),
        uv,
        texture,
    )


def _with_own_corners(mesh: Any) -> Any:
    """A mesh whose faces have colors with vertices of its own for each face, which hold them."""
    import trimesh

    corners = np.asarray(mesh.faces).reshape(-1)
    return trimesh.Trimesh(
        np.asarray(mesh.vertices)[corners],
        np.arange(len(corners)).reshape(-1, 3),
        vertex_normals=np.asarray(mesh.vertex_normals)[corners]
        if "vertex_normals" in mesh._cache
        else None,
        vertex_colors=np.repeat(mesh.visual.face_colors, 3, axis=0),
        process=False,
    )


def _appearance(
    mesh: Any, is_linear: bool
) -> tuple[tuple[Any, ...], Tensor, Tensor | None, Tensor | None]:
    """Key of the material, vertex colors, texture coordinates and texture of a trimesh mesh."""
    from trimesh.visual.material import empty_material

    count, visual = len(mesh.vertices), mesh.visual
    colors, uv, texture = torch.ones(count, 3), None, None
    key: tuple[Any, ...] = (None,)
    if visual.kind == "vertex":
        colors = _unit_rgb(visual.vertex_colors, is_linear)
    elif visual.kind == "texture":
        material = visual.material
        if hash(material) == hash(empty_material()):  # trimesh's gray, of a file without any
            if (own := _colors_beside_uv(mesh)) is not None and len(own) == count:
                colors = _unit_rgb(own, is_linear)
        else:
            key = (material.name, hash(material))
            factor, image = _material_colors(material)
            texture = None if image is None else _read_texture(image)
            # .mtl files repeat a gray diffuse color that no program multiplies the texture by
            if factor is not None and not (texture is not None and not is_linear):
                colors = colors * _unit_rgb(factor, is_linear)
        if "color" in visual.vertex_attributes:
            colors = colors * _unit_rgb(visual.vertex_attributes["color"], is_linear)
        if visual.uv is not None and len(visual.uv) == count:
            uv = torch.tensor(np.asarray(visual.uv, np.float64)[:, :2]).float()
            uv = torch.stack([uv[:, 0], 1 - uv[:, 1]], 1)
    if texture is not None and uv is None:
        notify(
            f"the texture of the material {key[0]} is not read, since some of its faces have no "
            "texture coordinates"
        )
        texture = None
    return key, colors, uv, texture


def _colors_beside_uv(mesh: Any) -> Any:
    """Vertex colors of a mesh with texture coordinates and no material; None if there are none."""
    colors, raw = mesh.vertex_attributes.get("color"), mesh.metadata.get("_ply_raw")
    if colors is None or raw is None:
        return colors
    # trimesh divides and reorders the vertices of such a .ply, and leaves the colors as they were
    places = np.column_stack([raw["vertex"]["data"][axis] for axis in "xyz"])
    both = np.concatenate([places, np.asarray(mesh.vertices)])
    _, first, index = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return colors[first[index.reshape(-1)[len(places) :]]]


def _material_colors(material: Any) -> tuple[Any, Any]:
    """Base color and image of a material of glTF, or of an .mtl."""
    from trimesh.visual.material import PBRMaterial, SimpleMaterial

    if isinstance(material, PBRMaterial):
        return material.baseColorFactor, material.baseColorTexture
    if isinstance(material, SimpleMaterial):
        return material.diffuse, material.image
    return None, None


def _read_texture(image: Any) -> Float[Tensor, "3 h w"]:
    gray = gray_of_16_bits(image)
    image = image.convert("RGB") if gray is None else gray
    if max(image.size) > MAX_SOURCE_TEXTURE:
        image.thumbnail((MAX_SOURCE_TEXTURE, MAX_SOURCE_TEXTURE))
    texels = torch.from_numpy(np.array(image))
    if gray is not None:
        return texels.clamp(0, 1).expand(3, -1, -1).clone()
    return texels.permute(2, 0, 1).float() / 255


def _unit_rgb(values: Any, is_linear: bool) -> Tensor:
    """RGB in [0, 1] and sRGB, of bytes or numbers."""
    array = np.asarray(values)
    scale = 255.0 if array.dtype.kind in "iu" else 1.0
    rgb = torch.tensor(array[..., :3].astype(np.float64) / scale).float().clamp(0, 1)
    if not is_linear:
        return rgb
    curve = 1.055 * rgb.clamp_min(1e-9) ** (1 / 2.4) - 0.055
    return torch.where(rgb <= 0.0031308, rgb * 12.92, curve)


def _concat_parts(parts: list[MeshPart]) -> MeshPart:
    """The pieces of one material as one part; where one lacks normals, its are zeros."""
    starts = np.cumsum([0] + [len(part.vertices) for part in parts]).tolist()
    uvs = [part.uv for part in parts]
    normals = [
        torch.zeros(len(part.vertices), 3) if part.normals is None else part.normals
        for part in parts
    ]
    has_normals = any(part.normals is not None for part in parts)
    has_uv = all(uv is not None for uv in uvs)
    return MeshPart(
        parts[0].name,
        torch.cat([part.vertices for part in parts]),
        torch.cat([part.faces + start for part, start in zip(parts, starts, strict=False)]),
        torch.cat([part.colors for part in parts]),
        torch.cat(normals) if has_normals else None,
        torch.cat([uv for uv in uvs if uv is not None]) if has_uv else None,
        parts[0].texture if has_uv else None,
    )


def _check_parts(path: Path, parts: tuple[MeshPart, ...]) -> None:
    """Refuse a mesh that cannot be rendered."""
    total = sum(len(part.faces) for part in parts)
    if not total:
        raise ValueError(f"{path} has no faces: points and lines have no surface to be textured")
    if total > MAX_MESH_FACES:
        raise ValueError(
            f"{path} has {total:,} faces, and at most {MAX_MESH_FACES:,} are taken: reduce them "
            "first, for example with the Decimate modifier of Blender"
        )
    vertices = torch.cat([part.vertices for part in parts])
    if not bool(vertices.isfinite().all()):
        raise ValueError(f"{path} has vertices that are not finite")
    if any(int(part.faces.max()) >= len(part.vertices) for part in parts) or any(
        int(part.faces.min()) < 0 for part in parts
    ):
        raise ValueError(f"{path} is damaged: a face names a vertex that does not exist")
    extent = float((vertices.amax(0) - vertices.amin(0)).max())
    if not extent > 0:
        raise ValueError(f"{path} has no extent: all its vertices lie in one point")
    if extent < _MIN_EXTENT:
        raise ValueError(
            f"{path} is {extent:.1g} units long, and at least {_MIN_EXTENT:g} are needed, since "
            "files hold 7 digits: scale it up first"
        )
    corners = torch.cat([part.vertices[part.faces] for part in parts])
    sides = corners[:, 1:] - corners[:, :1]
    areas = torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=-1) / 2
    if not float(areas.max()) > 1e-12 * extent**2:
        raise ValueError(f"{path} shows nothing: all its faces have the area zero")


def _check_repeats(path: Path, parts: tuple[MeshPart, ...]) -> None:
    """Refuse textures that a glTF file clamps or mirrors, where it looks beyond their borders."""
    names = materials_not_repeated(path)
    for part in parts:
        if part.texture is None or part.uv is None or part.name not in names:
            continue
        used = part.uv[part.faces]
        if float(used.min()) < -_BORDER or float(used.max()) > 1 + _BORDER:
            raise ValueError(
                f"{path} clamps or mirrors the texture of the material {part.name} beyond its "
                "borders, and only repeated ones are read: repeat it, or move its texture "
                "coordinates into [0, 1] before the export"
            )


def _with_distinct_names(parts: tuple[MeshPart, ...]) -> tuple[MeshPart, ...]:
    """Parts whose names can be told apart in a file."""
    names: list[str] = []
    for part in parts:
        name, number = part.name, 2
        while name in names:
            name, number = f"{part.name}-{number}", number + 1
        names.append(name)
    return tuple(replace(part, name=name) for part, name in zip(parts, names, strict=True))
