"""Mesh writers: glTF 2.0 (.glb), Wavefront (.obj, .mtl, .png) and .ply; y up, front towards +z.

trimesh is not used here, although the tests open every file with it. Its glTF exporter writes
vertex colors as the bytes it was given, while glTF defines them as linear light, which is stored
here in float32 (and, for the viewer, through an inverse tone mapping that bytes cannot hold); it
also has no KHR_materials_unlit, which the viewer needs to show colors as they are. The .ply writer
saves the snapshots of every 3D run, for which no extra is required, and its reader recognizes
exactly these files. That leaves the .obj, of which trimesh would save some ten lines at the price
of a runtime dependency.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck import __version__
from limbeck.graphics.export.mesh_cleanup import TexturedMesh
from limbeck.graphics.export.png import encode_png, to_uint8
from limbeck.graphics.geometry.assets import Splats
from limbeck.graphics.geometry.gaussian_ply import write_gaussian_ply
from limbeck.system.files import replacing

#: Roughness of the material; metallic is 0, since the colors are the asset's own.
_ROUGHNESS = 0.9

# glTF constants
_FLOAT, _UNSIGNED_INT = 5126, 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE = 9729, 9987, 33071
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942

_PLY_POSITION = ("x", "y", "z", "nx", "ny", "nz")
_PLY_COLOR = ("red", "green", "blue")
_PLY_VERTEX = np.dtype(
    [(name, "<f4") for name in _PLY_POSITION] + [(name, "u1") for name in _PLY_COLOR]
)
_PLY_FACE = np.dtype([("count", "u1"), ("corners", "<i4", (3,))])


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file by renaming a complete temporary one."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_splats_atomic(path: Path, splats: Splats) -> None:
    """Write Gaussians as .ply by renaming a complete temporary file."""
    with replacing(path) as part:
        write_gaussian_ply(part, splats)


def srgb_to_linear(colors: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Convert sRGB to linear light (IEC 61966-2-1), as glTF defines vertex colors."""
    curve = ((colors + 0.055) / 1.055).clamp_min(0) ** 2.4
    return torch.where(colors <= 0.04045, colors / 12.92, curve)


class _GlbBuffer:
    """Binary chunk of a .glb file, with its buffer views and accessors."""

    def __init__(self) -> None:
        self.views: list[dict[str, int]] = []
        self.chunks: list[bytes] = []
        self.accessors: list[dict[str, Any]] = []
        self.length = 0

    def add_view(self, data: bytes, **properties: int) -> int:
        """Append data, padded to 4 bytes, and return the index of its buffer view."""
        data += b"\0" * (-len(data) % 4)
        view = {"buffer": 0, "byteOffset": self.length, "byteLength": len(data)}
        self.views.append(view | properties)
        self.chunks.append(data)
        self.length += len(data)
        return len(self.views) - 1

    def add_vertices(self, values: Tensor, kind: str, **properties: list) -> int:
        """Append a vertex attribute and return the index of its accessor."""
        data = values.float().contiguous().numpy().astype("<f4").tobytes()
        view = self.add_view(data, target=_ARRAY_BUFFER)
        accessor = {
            "bufferView": view,
            "componentType": _FLOAT,
            "count": len(values),
            "type": kind,
        }
        self.accessors.append(accessor | properties)
        return len(self.accessors) - 1

    def add_faces(self, faces: Tensor) -> int:
        """Append vertex indices and return the index of their accessor."""
        data = faces.numpy().astype("<u4").tobytes()
        view = self.add_view(data, target=_ELEMENT_ARRAY_BUFFER)
        accessor = {
            "bufferView": view,
            "componentType": _UNSIGNED_INT,
            "count": faces.numel(),
            "type": "SCALAR",
        }
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def pack(self, document: dict[str, Any]) -> bytes:
        """The two chunks of a .glb file."""
        asset = {"version": "2.0", "generator": f"limbeck {__version__}"}
        buffers = {"bufferViews": self.views, "buffers": [{"byteLength": self.length}]}
        text = json.dumps({"asset": asset} | document | buffers).encode()
        text += b" " * (-len(text) % 4)
        total = 28 + len(text) + self.length
        header = struct.pack("<4sIIII", b"glTF", 2, total, len(text), _JSON_CHUNK)
        binary_header = struct.pack("<II", self.length, _BINARY_CHUNK)
        return b"".join([header, text, binary_header, *self.chunks])


def encode_glb(
    mesh: TexturedMesh,
    unlit: bool = False,
    color_transform: Callable[[Tensor], Tensor] = srgb_to_linear,
) -> bytes:
    """Encode a mesh as one binary glTF file.

    Args:
        mesh: mesh with a texture or vertex colors.
        unlit: show the colors as they are, in viewers that support KHR_materials_unlit.
        color_transform: maps sRGB to the stored vertex colors. glTF requires linear colors; pass
            another function only for a viewer whose own color transform it has to cancel.
    """
    return encode_glb_parts([mesh], unlit, color_transform)


def encode_glb_parts(
    parts: Sequence[TexturedMesh],
    unlit: bool = False,
    color_transform: Callable[[Tensor], Tensor] = srgb_to_linear,
) -> bytes:
    """Encode a mesh of several materials as one binary glTF file.

    Args:
        parts: the faces of each material.
        unlit: as of ``encode_glb``.
        color_transform: as of ``encode_glb``.
    """
    buffer, materials, primitives = _GlbBuffer(), list[dict[str, Any]](), list[dict[str, Any]]()
    image_views: list[int] = []
    for number, part in enumerate(parts):
        low, high = part.vertices.amin(0).float().tolist(), part.vertices.amax(0).float().tolist()
        attributes = {
            "POSITION": buffer.add_vertices(part.vertices, "VEC3", min=low, max=high),
            "NORMAL": buffer.add_vertices(part.normals, "VEC3"),
        }
        pbr: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": _ROUGHNESS}
        # double-sided, since a scene is cut open at the border of its box
        material = {"name": part.name, "pbrMetallicRoughness": pbr, "doubleSided": True}
        if part.texture is not None and part.uv is not None:
            attributes["TEXCOORD_0"] = buffer.add_vertices(part.uv, "VEC2")
            pbr["baseColorTexture"] = {"index": len(image_views)}
            image_views.append(buffer.add_view(encode_png(part.texture)))
        elif part.colors is not None:
            attributes["COLOR_0"] = buffer.add_vertices(color_transform(part.colors), "VEC3")
        if unlit:
            material["extensions"] = {"KHR_materials_unlit": {}}
        indices = buffer.add_faces(part.faces)
        primitives.append({"attributes": attributes, "indices": indices, "material": number})
        materials.append(material)
    document = _texture_entries(image_views) if image_views else {}
    if unlit:
        document["extensionsUsed"] = ["KHR_materials_unlit"]
    document |= {
        "materials": materials,
        "meshes": [{"name": "asset", "primitives": primitives}],
        "nodes": [{"mesh": 0, "name": "asset"}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
        "accessors": buffer.accessors,
    }
    return buffer.pack(document)


def _texture_entries(image_views: Sequence[int]) -> dict[str, Any]:
    """Textures, images and the sampler of PNGs in buffer views."""
    sampler = {
        "magFilter": _LINEAR,
        "minFilter": _LINEAR_MIPMAP_LINEAR,
        "wrapS": _CLAMP_TO_EDGE,
        "wrapT": _CLAMP_TO_EDGE,
    }
    names = ["color", *(f"color-{i}" for i in range(1, len(image_views)))]
    return {
        "textures": [{"source": i, "sampler": 0} for i in range(len(image_views))],
        "images": [
            {"bufferView": view, "mimeType": "image/png", "name": name}
            for view, name in zip(image_views, names, strict=True)
        ],
        "samplers": [sampler],
    }


def _obj_rows(keyword: str, values: Tensor) -> list[str]:
    rows = values.float().numpy()  # whose shortest texts read back as the same numbers
    return [f"{keyword} " + " ".join(map(str, row)) for row in rows]


def _mtl(material: str, texture_name: str) -> str:
    """A material with a texture as its diffuse color."""
    lines = [f"newmtl {material}", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1"]
    lines += [f"Pr {_ROUGHNESS}", "Pm 0", f"map_Kd {texture_name}"]
    return "\n".join(lines) + "\n"


def obj_texture_paths(path: Path, count: int) -> list[Path]:
    """The textures of an .obj: its own name, with a number if there are several.

    Args:
        path: the .obj file.
        count: number of textures.
    """
    if count == 1:
        return [path.with_suffix(".png")]
    return [path.with_name(f"{path.stem}-{i}.png") for i in range(count)]


def encode_obj(
    mesh: TexturedMesh, path: Path, axes: str = "y up, front towards +z"
) -> dict[Path, bytes]:
    """Encode a mesh as .obj, with .mtl and .png if it has a texture.

    Args:
        mesh: mesh with a texture or vertex colors.
        path: the .obj file; the others lie beside it.
        axes: what the first line of the file says of its axes.

    Returns:
        The contents of the files, in the order in which they are to be written.
    """
    return encode_obj_parts([mesh], path, axes)


def encode_obj_parts(
    parts: Sequence[TexturedMesh], path: Path, axes: str = "y up, front towards +z"
) -> dict[Path, bytes]:
    """Encode a mesh of several materials as .obj, .mtl and one .png for each.

    Vertices that differ in their texture coordinates alone, as on the border of two charts, are one
    vertex of the file, so that a closed surface is closed in other programs too.

    Args:
        parts: the faces of each material, all with textures or all with vertex colors.
        path: the .obj file; the others lie beside it.
        axes: what the first line of the file says of its axes.

    Returns:
        The contents of the files, in the order in which they are to be written.
    """
    mtl, materials, names = path.with_suffix(".mtl"), list[str](), _obj_names(parts)
    lines, files = [f"# limbeck {__version__}: {axes}"], dict[Path, bytes]()
    first_vertex = first_texel = 1
    if parts[0].texture is not None:
        lines.append(f"mtllib {mtl.name}")
    textures = obj_texture_paths(path, len(parts))
    for part, png, name in zip(parts, textures, names, strict=True):
        if part.texture is not None and part.uv is not None:
            files[png] = encode_png(part.texture)
            materials.append(_mtl(name, png.name))
            uv_upwards = torch.stack([part.uv[:, 0], 1 - part.uv[:, 1]], 1)
            lines += [*_obj_rows("vt", uv_upwards), f"usemtl {name}"]
            kept, place = _distinct_vertices(part)
            positions, normals = part.vertices[kept], part.normals[kept]
            vertex, texel = place[part.faces] + first_vertex, part.faces + first_texel
            corners = zip(vertex.tolist(), texel.tolist(), strict=True)
            faces = [[f"{v}/{t}/{v}" for v, t in zip(*face, strict=True)] for face in corners]
            first_texel += len(part.uv)
        else:
            colors = part.vertices[:, :0] if part.colors is None else part.colors
            positions, normals = torch.cat([part.vertices, colors], 1), part.normals
            faces = [[f"{v}//{v}" for v in face] for face in (part.faces + first_vertex).tolist()]
        lines += _obj_rows("v", positions) + _obj_rows("vn", normals)
        lines += ["f " + " ".join(face) for face in faces]
        first_vertex += len(positions)
    if materials:
        files[mtl] = "\n".join(materials).encode()
    return files | {path: ("\n".join(lines) + "\n").encode()}


def _distinct_vertices(mesh: TexturedMesh) -> tuple[Int[Tensor, "w"], Int[Tensor, "v"]]:
    """Return the vertices with different positions or normals, and the place of each among them."""
    rows = torch.cat([mesh.vertices, mesh.normals], 1).numpy()
    _, kept, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = kept.argsort()  # as they stand in the mesh, not sorted by their numbers
    return torch.from_numpy(kept[order]), torch.from_numpy(order.argsort()[place])


def _obj_names(parts: Sequence[TexturedMesh]) -> list[str]:
    """Names of materials without spaces, which an .mtl cannot have, and distinct without them."""
    names: list[str] = []
    for part in parts:
        base = name = "_".join(part.name.split())
        number = 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def encode_ply(mesh: TexturedMesh, axes: str = "y up, front towards +z") -> bytes:
    """Encode a mesh with vertex colors as binary .ply.

    Args:
        mesh: mesh with vertex colors.
        axes: what the header says of its axes; ``decode_ply`` reads the default alone.

    Raises:
        ValueError: if the mesh has a texture.
    """
    if mesh.colors is None:
        raise ValueError("a .ply stores vertex colors, but this mesh has a texture")
    vertices = np.empty(len(mesh.vertices), _PLY_VERTEX)
    faces = np.empty(len(mesh.faces), _PLY_FACE)
    position = torch.cat([mesh.vertices, mesh.normals], 1).numpy()
    color = to_uint8(mesh.colors.T[None, :, :, None])[0, :, 0]
    for names, values in ((_PLY_POSITION, position), (_PLY_COLOR, color)):
        for name, column in zip(names, values.T, strict=True):
            vertices[name] = column
    faces["count"], faces["corners"] = 3, mesh.faces.numpy()
    return _ply_header(len(vertices), len(faces), axes) + vertices.tobytes() + faces.tobytes()


def _ply_header(num_vertices: int, num_faces: int, axes: str = "y up, front towards +z") -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"comment limbeck: {axes}"]
    lines += [f"element vertex {num_vertices}"]
    lines += [f"property float {name}" for name in _PLY_POSITION]
    lines += [f"property uchar {name}" for name in _PLY_COLOR]
    lines += [f"element face {num_faces}", "property list uchar int vertex_indices", "end_header"]
    return ("\n".join(lines) + "\n").encode()


def decode_ply(data: bytes) -> TexturedMesh:
    """Decode a .ply of ``encode_ply``.

    Raises:
        ValueError: if another program wrote the file, or it is truncated.
    """
    end = data.find(b"end_header\n") + len(b"end_header\n")
    elements = [line.split() for line in data[:end].splitlines() if line.startswith(b"element ")]
    counts = [int(words[2]) for words in elements if len(words) == 3]
    if len(counts) != 2 or data[:end] != _ply_header(counts[0], counts[1]):
        raise ValueError("this .ply is not a mesh written by limbeck")
    num_vertices, num_faces = counts
    size = end + num_vertices * _PLY_VERTEX.itemsize + num_faces * _PLY_FACE.itemsize
    if len(data) != size:
        raise ValueError(f"this .ply is truncated: {len(data)} of {size} bytes are present")
    vertices = np.frombuffer(data, _PLY_VERTEX, num_vertices, end)
    faces = np.frombuffer(data, _PLY_FACE, num_faces, end + vertices.nbytes)

    def columns(names: tuple[str, ...]) -> Tensor:
        return torch.from_numpy(np.stack([vertices[name] for name in names], 1).astype("f4"))

    position = columns(_PLY_POSITION)
    corners = torch.from_numpy(faces["corners"].astype("i8"))
    return TexturedMesh(position[:, :3], position[:, 3:], corners, columns(_PLY_COLOR) / 255)
