"""Solids as files that others open: a surface with a texture or coloured vertices, or a cloud of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limbeck.graphics.export import writers as files
from limbeck.graphics.export.mesh_cleanup import TexturedMesh, decimate, drop_small_components, query_colors, unit_vertex_normals, validate_surface
from limbeck.graphics.export.uv_atlas import MAX_TEXTURE_SIZE, MIN_TEXTURE_SIZE, bake_texture
from limbeck.graphics.geometry.assets import Splats, Surface

ExportFormat = Literal["glb", "obj", "ply"]


@dataclass(frozen=True)
class MeshExportOptions:
    """How a surface becomes a file.

    texture: texels along a side of the texture; .ply has none and takes the colours of vertices. vertex_colours: those instead of
    a texture. faces: at most so many, 0 for all there are. crumbs: loose parts with less than this share of the faces are left out.
    """

    texture: int = 1024
    vertex_colours: bool = False
    faces: int = 0
    crumbs: float = 0.01

    def __post_init__(self) -> None:
        if not MIN_TEXTURE_SIZE <= self.texture <= MAX_TEXTURE_SIZE:
            raise ValueError(
                f"texture takes {MIN_TEXTURE_SIZE} to {MAX_TEXTURE_SIZE} texels along a side, not {self.texture}"
            )
        if self.faces < 0 or 0 < self.faces < 4:
            raise ValueError(f"faces is at least 4, or 0 for all, not {self.faces}")
        if not 0 <= self.crumbs < 1:
            raise ValueError(f"crumbs is a share of the faces in [0, 1), not {self.crumbs}")

    def mesh(self, surface: Surface, coloured: bool = False) -> tuple[TexturedMesh, int]:
        """The surface as a mesh, ``coloured`` at its vertices whatever is asked for, and the parts left out. ValueError where it
        is empty."""
        kept, dropped = drop_small_components(validate_surface(surface), self.crumbs)
        kept = decimate(kept, self.faces) if self.faces else kept
        return (
            with_vertex_colors(kept) if coloured or self.vertex_colours else bake_texture(kept, self.texture)
        ), dropped


def with_vertex_colors(surface: Surface) -> TexturedMesh:
    """A mesh whose vertices have the colours."""
    vertices, faces = surface.vertices.float().cpu(), surface.faces.cpu()
    return TexturedMesh(
        vertices, unit_vertex_normals(vertices, faces), faces, query_colors(surface, surface.vertices)
    )


def export_paths(path: Path, kind: ExportFormat, solid: Surface | Splats) -> Sequence[Path]:
    """The files that ``export`` would write."""
    textured = kind == "obj" and isinstance(solid, Surface)
    return (path, path.with_suffix(".mtl"), path.with_suffix(".png")) if textured else (path,)


def export_asset(
    solid: Surface | Splats,
    path: Path,
    kind: ExportFormat,
    shape: MeshExportOptions = MeshExportOptions(),
) -> str:
    """Write a solid to ``path`` as ``kind`` and say what it holds.

    Raises ValueError where a file is there already, the surface is empty, or splats are wanted as anything but .ply.
    """
    for file in export_paths(path, kind, solid):
        if file.exists():
            raise ValueError(
                f"{file} is there already and nothing is overwritten; name another file with --out"
            )
    if isinstance(solid, Splats):
        return _splats(solid, path, kind)
    mesh, dropped = shape.mesh(solid, coloured=kind == "ply")
    parts = (
        files.encode_obj(mesh, path)
        if kind == "obj"
        else {path: files.encode_glb(mesh) if kind == "glb" else files.encode_ply(mesh)}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, data in parts.items():
        files.write_atomic(file, data)
    skin = (
        "coloured vertices"
        if mesh.texture is None
        else f"a texture of {mesh.texture.shape[2]} x {mesh.texture.shape[1]}"
    )
    crumbs = f"; {dropped} loose part{'s' * (dropped != 1)} left out" if dropped else ""
    return f"{len(mesh.faces):,} faces with {skin}{crumbs}"


def _splats(splats: Splats, path: Path, kind: ExportFormat) -> str:
    if kind != "ply":
        raise ValueError(
            f"splats have no surface that .{kind} could hold: export them with --format ply"
        )
    if not len(splats.mean):
        raise ValueError("there is no splat: this particle has nothing to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_splats_atomic(path, splats)
    return f"{len(splats.mean):,} splats"
