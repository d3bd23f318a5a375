"""Check exported .glb files as another program reads them, with trimesh.

    python examples/check_assets.py exports/*.glb

Prints a row for each file: faces, charts of the texture, connected components, whether the surface
is watertight, the size of the texture and of the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import trimesh

from limbeck.graphics.geometry.mesh import MeshTopology, connected_components


def load(path: Path) -> trimesh.Trimesh:
    """Load the mesh of a file as it is stored, with vertices repeated along the borders of charts.

    Args:
        path: a .glb file of one mesh.
    """
    scene = trimesh.load_scene(path, process=False)
    return scene.to_mesh()


def count_parts(mesh: trimesh.Trimesh) -> int:
    """Return the number of parts of a mesh that share no vertex.

    Args:
        mesh: a mesh.
    """
    faces = torch.tensor(mesh.faces.astype("int64"))
    labels = connected_components(MeshTopology(faces, len(mesh.vertices)))
    return len(labels[faces[:, 0]].unique())


def row(path: Path) -> str:
    """Return the row of one file.

    Args:
        path: a .glb file of one mesh.
    """
    mesh = load(path)
    charts = count_parts(mesh)  # vertices are repeated where two charts meet
    texture = mesh.visual.material.baseColorTexture.size
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    cells = [
        path.stem,
        f"{len(mesh.faces):,}",
        str(charts),
        str(count_parts(mesh)),
        "yes" if mesh.is_watertight else "no",
        f"{texture[0]} x {texture[1]}",
        f"{path.stat().st_size / 1e6:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help=".glb files")
    print("| file | faces | charts | components | watertight | texture | MB |")
    print("|---|---|---|---|---|---|---|")
    for path in parser.parse_args().files:
        print(row(path), flush=True)


if __name__ == "__main__":
    main()
