"""Meshes in the layouts of others: glTF 2.0 (.glb), Wavefront (.obj with .mtl and .png) and polygons (.ply). All y up, front +z."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limbeck import __version__
from limbeck.graphics.export.mesh_cleanup import TexturedMesh
from limbeck.graphics.export.png import to_uint8
from limbeck.graphics.geometry.assets import Splats

MATERIAL_ROUGHNESS = 0.9  #: of the material; metallic is 0, since a colour that was distilled is the colour of the thing
FLOAT, WHOLE = 5126, 5125  #: glTF's component types
PLACE, COLOUR = ("x", "y", "z", "nx", "ny", "nz"), ("red", "green", "blue")
PLY_VERTEX = np.dtype([(name, "<f4") for name in PLACE] + [(name, "u1") for name in COLOUR])
PLY_FACE = np.dtype([("count", "u1"), ("corners", "<i4", (3,))])


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file in one move."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_splats_atomic(path: Path, splats: Splats) -> None:
    """Write a cloud of Gaussians in one move."""
    from limbeck.graphics.geometry.gaussian_ply import write_gaussian_ply

    part = path.with_name(path.name + ".part")
    try:
        write_gaussian_ply(part, splats)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def srgb_to_linear(colours: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Display-referred sRGB as light (IEC 61966-2-1), which is what glTF means by the colour of a vertex."""
    return torch.where(
        colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055).clamp_min(0) ** 2.4
    )


def encode_png(texture: Float[Tensor, "3 y x"]) -> bytes:
    """A texture as PNG; sRGB, which is what glTF and .mtl take it for."""
    out = io.BytesIO()
    Image.fromarray(to_uint8(texture[None])[0]).save(out, "PNG")
    return out.getvalue()


def encode_glb(
    mesh: TexturedMesh, unlit: bool = False, light: Callable[[Tensor], Tensor] = srgb_to_linear
) -> bytes:
    """A mesh as one binary glTF file. unlit: its colours are shown as they are, by viewers that know KHR_materials_unlit. light:
    what a vertex has for its colour; other than ``linear`` only for a viewer that is known to change light.
    """
    parts: list[tuple[dict, bytes]] = []  # buffer views

    def put(data: bytes, **more: int) -> int:
        parts.append((more, data + b"\0" * (-len(data) % 4)))
        return len(parts) - 1

    accessors: list[dict] = []

    def attribute(values: Tensor, kind: str, **more: list) -> int:
        view = put(values.float().contiguous().numpy().astype("<f4").tobytes(), target=34962)
        accessors.append(
            {"bufferView": view, "componentType": FLOAT, "count": len(values), "type": kind} | more
        )
        return len(accessors) - 1

    low, high = (getattr(mesh.vertices, name)(0).float().tolist() for name in ("amin", "amax"))
    places = {
        "POSITION": attribute(mesh.vertices, "VEC3", min=low, max=high),
        "NORMAL": attribute(mesh.normals, "VEC3"),
    }
    material: dict = {
        "name": "surface",
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": MATERIAL_ROUGHNESS},
    }
    material["doubleSided"] = True  # a scene is cut open where its box ends
    top: dict = {}
    if mesh.texture is not None and mesh.uv is not None:
        places["TEXCOORD_0"] = attribute(mesh.uv, "VEC2")
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        picture = {"bufferView": put(encode_png(mesh.texture)), "mimeType": "image/png", "name": "colour"}
        sampler = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
        top |= {
            "textures": [{"source": 0, "sampler": 0}],
            "images": [picture],
            "samplers": [sampler],
        }
    elif mesh.colours is not None:
        places["COLOR_0"] = attribute(light(mesh.colours), "VEC3")
    if unlit:
        material["extensions"] = {"KHR_materials_unlit": {}}
        top["extensionsUsed"] = ["KHR_materials_unlit"]
    corners = put(mesh.faces.numpy().astype("<u4").tobytes(), target=34963)
    accessors.append(
        {
            "bufferView": corners,
            "componentType": WHOLE,
            "count": mesh.faces.numel(),
            "type": "SCALAR",
        }
    )
    solid = {
        "name": "solid",
        "primitives": [{"attributes": places, "indices": len(accessors) - 1, "material": 0}],
    }
    top |= {
        "materials": [material],
        "meshes": [solid],
        "nodes": [{"mesh": 0, "name": "solid"}],
        "scenes": [{"nodes": [0]}],
    }
    return _packed(top | {"scene": 0, "accessors": accessors}, parts)


def _packed(top: dict, parts: list[tuple[dict, bytes]]) -> bytes:
    """The two chunks of a .glb file."""
    views, at = [], 0
    for more, data in parts:
        views.append({"buffer": 0, "byteOffset": at, "byteLength": len(data)} | more)
        at += len(data)
    asset = {"version": "2.0", "generator": f"limbeck {__version__}"}
    text = json.dumps(
        {"asset": asset} | top | {"bufferViews": views, "buffers": [{"byteLength": at}]}
    ).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + at, len(text), 0x4E4F534A)
    return b"".join([head, text, struct.pack("<II", at, 0x004E4942), *(data for _, data in parts)])


def encode_obj(mesh: TexturedMesh, path: Path) -> dict[Path, bytes]:
    """The files of a mesh at ``path``, an .obj, in the order in which they shall be written."""
    rows = lambda word, values: [
        f"{word} " + " ".join(f"{x:.6g}" for x in row) for row in values.tolist()
    ]  # noqa: E731
    lines = [f"# limbeck {__version__}: y up, front towards +z"]
    places, files, corner = mesh.vertices, {}, "{0}//{0}"
    if mesh.texture is not None and mesh.uv is not None:
        skin, picture, corner = path.with_suffix(".mtl"), path.with_suffix(".png"), "{0}/{0}/{0}"
        named = f"newmtl surface\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nPr {MATERIAL_ROUGHNESS}\nPm 0\nmap_Kd {picture.name}\n"
        files = {picture: encode_png(mesh.texture), skin: named.encode()}
        lines += [
            f"mtllib {skin.name}",
            *rows("vt", torch.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1)),
            "usemtl surface",
        ]
    elif mesh.colours is not None:
        places = torch.cat([mesh.vertices, mesh.colours], 1)
    lines += rows("v", places) + rows("vn", mesh.normals)
    lines += ["f " + " ".join(corner.format(i + 1) for i in face) for face in mesh.faces.tolist()]
    return files | {path: ("\n".join(lines) + "\n").encode()}


def encode_ply(mesh: TexturedMesh) -> bytes:
    """A mesh with the colours of its vertices as binary .ply."""
    if mesh.colours is None:
        raise ValueError("a .ply file takes the colours of vertices, and this mesh has a texture")
    vertices, faces = np.empty(len(mesh.vertices), PLY_VERTEX), np.empty(len(mesh.faces), PLY_FACE)
    places, colours = (
        torch.cat([mesh.vertices, mesh.normals], 1).numpy(),
        to_uint8(mesh.colours.T[None, :, :, None])[0, :, 0],
    )
    for names, values in ((PLACE, places), (COLOUR, colours)):
        for name, column in zip(names, values.T, strict=True):
            vertices[name] = column
    faces["count"], faces["corners"] = 3, mesh.faces.numpy()
    return _ply_head(len(vertices), len(faces)) + vertices.tobytes() + faces.tobytes()


def _ply_head(vertices: int, faces: int) -> bytes:
    kinds = {"<f4": "float", "|u1": "uchar"}
    columns = "".join(
        f"property {kinds[PLY_VERTEX[name].str]} {name}\n" for name in PLY_VERTEX.names or ()
    )
    top = f"ply\nformat binary_little_endian 1.0\ncomment limbeck: y up, front towards +z\nelement vertex {vertices}\n{columns}"
    return (
        top + f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()


def decode_ply(data: bytes) -> TexturedMesh:
    """What ``ply`` wrote; ValueError for the file of another."""
    end = data.find(b"end_header\n") + len(b"end_header\n")
    counts = [
        int(line.split()[2])
        for line in data[:end].splitlines()
        if line.startswith(b"element ") and len(line.split()) == 3
    ]
    if len(counts) != 2 or data[:end] != _ply_head(*counts):
        raise ValueError("this .ply is no mesh that limbeck wrote")
    if len(data) != end + counts[0] * PLY_VERTEX.itemsize + counts[1] * PLY_FACE.itemsize:
        raise ValueError("this .ply is cut short")
    vertices = np.frombuffer(data, PLY_VERTEX, counts[0], end)
    faces = np.frombuffer(data, PLY_FACE, counts[1], end + vertices.nbytes)
    columns = lambda *names: torch.from_numpy(
        np.stack([vertices[name] for name in names], 1).astype("f4")
    )  # noqa: E731
    places = columns(*PLACE)
    return TexturedMesh(
        places[:, :3],
        places[:, 3:],
        torch.from_numpy(faces["corners"].astype("i8")),
        columns(*COLOUR) / 255,
    )
