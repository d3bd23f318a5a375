"""Files and materials that an .obj names and that are not there, without which colors lack."""

from __future__ import annotations

import re
from pathlib import Path

from limbeck.system.notices import notify

# as trimesh: the first material library, and all of a line behind the keyword as one name
_LIBRARY = re.compile(r"^\s*mtllib[ \t]+(.+?)\s*$", re.MULTILINE)
_USED = re.compile(r"^\s*usemtl[ \t]+(.+?)\s*$", re.MULTILINE)
_DEFINED = re.compile(r"^\s*newmtl[ \t]+(.+?)\s*$", re.MULTILINE)
_TEXTURE = re.compile(r"^\s*map_Kd[ \t]+(.+?)\s*$", re.MULTILINE | re.IGNORECASE)


def notify_missing_obj_files(path: Path) -> None:
    """Give a notice of each file or material that an .obj names and that is not there.

    It has the name of the file without its folder, so that one that is read twice is said once.

    Args:
        path: an .obj file.
    """
    mesh = path.read_text(encoding="utf-8", errors="replace")
    library = _LIBRARY.search(mesh)
    if library is None:
        return
    name = library[1]
    materials = path.parent / name
    if not materials.is_file():
        notify(f"{path.name} names its materials in {name}, but there is no such file")
        return
    text = materials.read_text(encoding="utf-8", errors="replace")
    defined = {match[1] for match in _DEFINED.finditer(text)}
    used = dict.fromkeys(match[1] for match in _USED.finditer(mesh))
    if lacking := [material for material in used if material not in defined]:
        others = dict.fromkeys(m[1] for m in _LIBRARY.finditer(mesh) if m[1] != name)
        cause = f": of its libraries the first alone is read, not {', '.join(others)}"
        notify(
            f"{path.name} uses the material {', '.join(lacking[:3])}, which {name} does not define"
            + (cause if others else "")
        )
    for texture in dict.fromkeys(match[1] for match in _TEXTURE.finditer(text)):
        if not (path.parent / texture).is_file():
            notify(f"{materials.name} names the texture {texture}, but there is no such file")
