"""Files that an .obj names and that are not beside it, without which it has no colors."""

from __future__ import annotations

import re
from pathlib import Path

from limbeck.system.notices import notify

# as trimesh: the first material library, and all of a line behind the keyword as one name
_LIBRARY = re.compile(r"^\s*mtllib[ \t]+(.+?)\s*$", re.MULTILINE)
_TEXTURE = re.compile(r"^\s*map_Kd[ \t]+(.+?)\s*$", re.MULTILINE | re.IGNORECASE)


def notify_missing_obj_files(path: Path) -> None:
    """Give a notice of each file of materials or colors that an .obj names and that is not there.

    It has the name of the file without its folder, so that one that is read twice is said once.

    Args:
        path: an .obj file.
    """
    library = _LIBRARY.search(path.read_text(encoding="utf-8", errors="replace"))
    if library is None:
        return
    name = library[1]
    materials = path.parent / name
    if not materials.is_file():
        notify(f"{path.name} names its materials in {name}, but there is no such file")
        return
    text = materials.read_text(encoding="utf-8", errors="replace")
    for texture in dict.fromkeys(match[1] for match in _TEXTURE.finditer(text)):
        if not (path.parent / texture).is_file():
            notify(f"{materials.name} names the texture {texture}, but there is no such file")
