"""Meshes as users bring them, written by trimesh: with UVs, without, with nested nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.transformations import rotation_matrix
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

TEXTURE_SIZE = 64


def checkered(shift: int = 0) -> Image.Image:
    """Red grows to the right, green downwards, blue is a checkerboard; channels are rotated."""
    y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE]
    channels = [x * 255 // TEXTURE_SIZE, y * 255 // TEXTURE_SIZE, (x // 8 + y // 8) % 2 * 200]
    return Image.fromarray(np.roll(np.stack(channels, 2), shift, 2).astype(np.uint8))


def mapped_box(half_sizes=(1, 1, 1), center=(0, 0, 0), material=None) -> trimesh.Trimesh:
    """A box whose six sides have their own vertices and their own part of the texture."""
    vertices, faces, uv = [], [], []
    for side in range(6):
        axis, sign = side // 2, 1 if side % 2 else -1
        others = [i for i in range(3) if i != axis]
        square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        corners = np.zeros((4, 3))
        corners[:, others], corners[:, axis] = 2 * square - 1, sign
        quad = np.array([[0, 1, 2], [0, 2, 3]])
        outwards = np.cross(corners[1] - corners[0], corners[2] - corners[0])[axis] * sign > 0
        vertices.append(corners)
        faces.append((quad if outwards else quad[:, ::-1]) + 4 * side)
        uv.append((np.array([side % 3, side // 3]) + 0.05 + 0.9 * square) / [3, 2])
    material = material or PBRMaterial(name="paint", baseColorTexture=checkered())
    return trimesh.Trimesh(
        np.concatenate(vertices) * half_sizes + center,
        np.concatenate(faces),
        process=False,
        visual=TextureVisuals(np.concatenate(uv), material=material),
    )


def node_scene() -> trimesh.Scene:
    """Two textured boxes and a white ball in nested nodes: rotated, scaled, mirrored."""
    scene = trimesh.Scene()
    first = rotation_matrix(0.7, [1, 1, 0])
    first[:3, 3] = [3, 4, 5]
    second = np.diag([-2.0, 1.0, 0.5, 1.0]) @ rotation_matrix(0.3, [0, 0, 1])
    second[:3, 3] = [4, 0, 0]
    materials = [PBRMaterial(name=n, baseColorTexture=checkered(i)) for i, n in enumerate("ab")]
    scene.add_geometry(mapped_box(material=materials[0]), node_name="one", transform=first)
    scene.add_geometry(
        mapped_box(material=materials[1]), node_name="two", parent_node_name="one", transform=second
    )
    ball = trimesh.creation.icosphere(subdivisions=2)
    scene.add_geometry(ball, node_name="three", parent_node_name="two", transform=first)
    return scene


def write_own_meshes(folder: Path) -> dict[str, Path]:
    """Write one file of each kind; returns their paths by name."""
    folder.mkdir(exist_ok=True)
    names = ("uvs.glb", "plain.glb", "nodes.glb", "box.obj", "ball.ply")
    paths = {name: folder / name for name in names}
    mapped_box((10, 20, 5), (100, 7, -3)).export(paths["uvs.glb"])
    trimesh.creation.torus(1, 0.4).export(paths["plain.glb"])
    node_scene().export(paths["nodes.glb"])
    paint = SimpleMaterial(image=checkered(), name="paint")
    mapped_box((1, 2, 3), material=paint).export(paths["box.obj"])
    ball = trimesh.creation.icosphere(subdivisions=3)
    ball.vertices[:, 2] *= 2
    rgb = (ball.vertices + 2) / 4 * 255
    ball.visual.vertex_colors = np.concatenate([rgb, np.full((len(rgb), 1), 255)], 1).astype("u1")
    ball.export(paths["ball.ply"])
    return paths
