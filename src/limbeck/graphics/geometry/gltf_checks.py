"""What of a glTF file is refused before it is read, since trimesh would read it wrongly."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from limbeck.system.notices import notify

#: extensions that a file may require: they change nothing that is read, or are checked below
_READ_EXTENSIONS = {"KHR_materials_unlit", "KHR_mesh_quantization", "KHR_texture_transform"}
_FLOAT, _UNSIGNED_BYTE = 5126, 5121  # component types of accessors
_REPEAT, _TRIANGLE_FAN = 10497, 6  # of samplers and primitives


def check_gltf(path: Path) -> None:
    """Refuse a glTF file that needs what is not read.

    Args:
        path: a .glb or .gltf file.

    Raises:
        ValueError: names the extension, the material or the attribute that is not read.
    """
    text = _description(path)
    try:
        description = json.loads(text)
        required = set(description.get("extensionsRequired", ()))
        textured = [m for m in description.get("materials", ()) if _base_texture(m)]
        moved = [m for m in textured if _moves_texture(m)]
        mapped = [m for m in textured if _coordinates(m) != 0]
        integers = _integer_attributes(description)
        unread_parts = _unread_geometry(description)
        unread_materials = _unread_material_parts(description)
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is damaged: its description is not JSON of glTF") from error
    if moved:
        raise ValueError(
            f"{path} shifts, turns or scales the texture of the material "
            f"{moved[0].get('name', 'without a name')} (KHR_texture_transform), which is not read: "
            "apply it to the texture coordinates before the export"
        )
    if unread := sorted(required - _READ_EXTENSIONS):
        raise ValueError(
            f"{path} needs the glTF extension {', '.join(unread)}, which is not read: export it "
            "without this extension"
        )
    if mapped:
        raise ValueError(
            f"{path} takes the texture of the material {mapped[0].get('name', 'without a name')} "
            f"from TEXCOORD_{_coordinates(mapped[0])}, and only TEXCOORD_0 is read: make these the "
            "first texture coordinates before the export"
        )
    if integers:
        raise ValueError(
            f"{path} stores {' and '.join(integers)} as integers that are not read: export them as "
            "floats"
        )
    if unread_parts:
        raise ValueError(f"{path} has {unread_parts}, which are not read: export it without them")
    for material, part in unread_materials:
        notify(f"{path.name}: {part} of the material {material} is not read")


def materials_not_repeated(path: Path) -> set[str]:
    """Names of the materials whose base color texture is clamped or mirrored, not repeated.

    Args:
        path: a .glb or .gltf file that ``check_gltf`` has accepted.
    """
    description = json.loads(_description(path))
    textures, samplers = description.get("textures", ()), description.get("samplers", ())
    names = set()
    for material in description.get("materials", ()):
        if not (texture := _base_texture(material)):
            continue
        number = textures[texture["index"]].get("sampler")
        sampler = {} if number is None else samplers[number]
        if any(sampler.get(wrap, _REPEAT) != _REPEAT for wrap in ("wrapS", "wrapT")):
            names.add(material.get("name") or "surface")  # as parts are named
    return names


def _description(path: Path) -> bytes:
    """The JSON of a file."""
    with path.open("rb") as file:
        head = file.read(20)
        if path.suffix.lower() != ".glb":
            return head + file.read()
        if len(head) < 20 or head[:4] != b"glTF":
            raise ValueError(f"{path} is no .glb: it does not begin with a glTF header")
        return file.read(struct.unpack("<I", head[12:16])[0])


def _base_texture(material: dict[str, Any]) -> dict[str, Any]:
    """The base color texture of a material, with its options; empty if there is none."""
    return material.get("pbrMetallicRoughness", {}).get("baseColorTexture", {})


def _transform(material: dict[str, Any]) -> dict[str, Any]:
    return _base_texture(material).get("extensions", {}).get("KHR_texture_transform", {})


def _moves_texture(material: dict[str, Any]) -> bool:
    """Whether a material transforms the coordinates of its base color texture.

    Files name this extension as used, not as required, although colors are wrong without it.
    """
    transform = _transform(material)
    identity = {"offset": [0, 0], "rotation": 0, "scale": [1, 1]}
    return any(transform.get(name, value) != value for name, value in identity.items())


def _coordinates(material: dict[str, Any]) -> int:
    """Number of the texture coordinates that the base color texture of a material takes."""
    return _transform(material).get("texCoord", _base_texture(material).get("texCoord", 0))


def _integer_attributes(description: dict[str, Any]) -> list[str]:
    """Attributes of vertices whose integers trimesh reads as whole numbers, or cuts to bytes."""
    found: dict[str, None] = {}
    accessors = description.get("accessors", [])
    for mesh in description.get("meshes", ()):
        for primitive in mesh.get("primitives", ()):
            for name, index in primitive.get("attributes", {}).items():
                accessor = accessors[index]
                kind = accessor.get("componentType")
                if name == "TEXCOORD_0" and kind != _FLOAT:
                    found["texture coordinates"] = None
                if name == "POSITION" and kind != _FLOAT and accessor.get("normalized", False):
                    found["positions"] = None  # the translations of nodes would be too small
                if name == "COLOR_0" and kind not in (_FLOAT, _UNSIGNED_BYTE):
                    found["vertex colors"] = None
    return list(found)


def _unread_geometry(description: dict[str, Any]) -> str:
    """What of the geometry trimesh leaves out without a word; empty if nothing."""
    accessors = description.get("accessors", [])
    for mesh in description.get("meshes", ()):
        for primitive in mesh.get("primitives", ()):
            used = [*primitive.get("attributes", {}).values()]
            used += [primitive["indices"]] if "indices" in primitive else []
            if any("sparse" in accessors[index] for index in used):
                return "sparse accessors"
            if primitive.get("mode") == _TRIANGLE_FAN:
                return "triangle fans"
    return ""


def _unread_material_parts(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Names of materials, and what of their colors is not read."""
    found = []
    for material in description.get("materials", ()):
        name = material.get("name", "without a name")
        gloss = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
        if material.get("alphaMode", "OPAQUE") != "OPAQUE":
            found.append((name, "the transparency"))
        if any(material.get("emissiveFactor", ())):
            found.append((name, "the emission"))
        if any(value != 1 for value in gloss.get("diffuseFactor", ())[:3]):
            found.append((name, "the diffuse factor (KHR_materials_pbrSpecularGlossiness)"))
    return found
