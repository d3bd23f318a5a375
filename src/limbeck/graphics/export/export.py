"""Export of 3D assets as files: a mesh with a texture or vertex colors, or Gaussian splats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from limbeck.config.ranges import refuse_given
from limbeck.graphics.export import writers
from limbeck.graphics.export.mapped_mesh import bake_part, color_vertices
from limbeck.graphics.export.mesh_cleanup import (
    TexturedMesh,
    check_finite_asset,
    count_charts,
    decimate,
    drop_small_components,
    is_closed_surface,
    query_colors,
    unit_vertex_normals,
    validate_surface,
)
from limbeck.graphics.export.splat_surface import splats_to_surface
from limbeck.graphics.export.uv_atlas import MAX_TEXTURE_SIZE, MIN_TEXTURE_SIZE, bake_texture
from limbeck.graphics.geometry.assets import MappedMesh, Splats, Surface

DEFAULT_MAX_FACES = 30_000  #: as many as a person can still edit, and enough for any silhouette
ExportFormat = Literal["glb", "obj", "ply"]
_AXES_OF_FILE = "axes of the mesh that it was made from"  #: of a mesh of one's own
#: faces and texels along a side of the texture
_QUALITIES = {"draft": (8_000, 512), "standard": (DEFAULT_MAX_FACES, 1024), "high": (100_000, 2048)}


@dataclass(frozen=True)
class MeshExportOptions:
    """Options of mesh export.

    Attributes:
        quality: number of faces and size of the texture, unless they are given. draft: 8,000 and
            512; standard: 30,000 and 1024; high: 100,000 and 2048.
        texture_size: texels along a side of the texture, 16 to 8192. A .ply has no texture and
            stores vertex colors. None: that of ``quality``.
        vertex_colors: store vertex colors instead of a texture.
        max_faces: decimate to at most this many faces. 0: keep all. None: those of ``quality``.
        min_component_fraction: drop connected components with fewer than this fraction of the
            faces. 0: keep all, of splats; the surfaces of nerf and dmtet have none below 0.01. A
            mesh of one's own keeps its faces, whatever their number, and all of its components.
    """

    quality: Literal["draft", "standard", "high"] = "standard"
    texture_size: int | None = None
    vertex_colors: bool = False
    max_faces: int | None = None
    min_component_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not MIN_TEXTURE_SIZE <= self.texels <= MAX_TEXTURE_SIZE:
            raise ValueError(
                f"texture_size must be in [{MIN_TEXTURE_SIZE}, {MAX_TEXTURE_SIZE}], "
                f"not {self.texture_size}"
            )
        if self.face_limit < 0 or 0 < self.face_limit < 4:
            raise ValueError(f"max_faces must be at least 4, or 0 for all, not {self.max_faces}")
        if not 0 <= self.min_component_fraction < 1:
            raise ValueError(
                f"min_component_fraction must be in [0, 1), not {self.min_component_fraction}"
            )
        if self.vertex_colors:
            refuse_given(self, "with vertex_colors: leave one of the two out", "texture_size")

    def check_effects(self, kind: ExportFormat, asset: Surface | MappedMesh | Splats) -> None:
        """Refuse options that have no effect on a file.

        Args:
            kind: file format.
            asset: the 3D asset.

        Raises:
            ValueError: names the first of them.
        """
        faces = ("max_faces", "min_component_fraction")
        if isinstance(asset, Splats) and kind == "ply":
            cause = "on a .ply, which holds the splats: leave it out, or export their surface as "
            names = ("quality", "texture_size", "vertex_colors", *faces)
            refuse_given(self, cause + "glb or obj", *names)
        if kind == "ply":
            cause = "on a .ply, which has no texture: leave it out, or export glb or obj"
            refuse_given(self, cause, "texture_size")
        if isinstance(asset, MappedMesh):
            own = "on a mesh of your own, which keeps its faces: leave it out"
            # 0 keeps all, as is done here
            refuse_given(self, own, *(name for name in faces if getattr(self, name)))
            if kind == "ply" or self.vertex_colors:
                cause = "on a mesh of your own with vertex colors: leave it out"
                refuse_given(self, cause, "quality")

    @property
    def texels(self) -> int:
        """Texels along a side of the texture."""
        return _QUALITIES[self.quality][1] if self.texture_size is None else self.texture_size

    @property
    def face_limit(self) -> int:
        """Largest number of faces; 0 if all are kept."""
        return _QUALITIES[self.quality][0] if self.max_faces is None else self.max_faces

    def to_mesh(self, surface: Surface, vertex_colors: bool = False) -> tuple[TexturedMesh, int]:
        """Turn a surface into a mesh with a texture or vertex colors.

        Args:
            surface: the surface.
            vertex_colors: store vertex colors whatever the option says.

        Returns:
            The mesh, and the number of connected components that were dropped.

        Raises:
            ValueError: if the surface is empty.
        """
        surface, num_dropped = drop_small_components(
            validate_surface(surface), self.min_component_fraction
        )
        if self.face_limit:
            surface = decimate(surface, self.face_limit)
        if vertex_colors or self.vertex_colors:
            return with_vertex_colors(surface), num_dropped
        return bake_texture(surface, self.texels), num_dropped


def with_vertex_colors(surface: Surface) -> TexturedMesh:
    """Turn a surface into a mesh with vertex colors."""
    vertices, faces = surface.vertices.float().cpu(), surface.faces.cpu()
    normals = unit_vertex_normals(vertices, faces)
    return TexturedMesh(vertices, normals, faces, query_colors(surface, surface.vertices))


def export_paths(
    path: Path, kind: ExportFormat, asset: Surface | MappedMesh | Splats
) -> Sequence[Path]:
    """Files that ``export_asset`` may write.

    Args:
        path: the main file.
        kind: file format.
        asset: the 3D asset.
    """
    if kind == "obj" and isinstance(asset, Surface | Splats):
        return (path, path.with_suffix(".mtl"), path.with_suffix(".png"))
    if kind == "obj" and isinstance(asset, MappedMesh):
        textures = writers.obj_texture_paths(path, len(asset.parts))
        return (path, path.with_suffix(".mtl"), *textures)
    return (path,)


def export_asset(
    asset: Surface | MappedMesh | Splats,
    path: Path,
    kind: ExportFormat,
    options: MeshExportOptions = MeshExportOptions(),
) -> str:
    """Write a 3D asset to a file; of splats a .ply holds the splats, other formats their surface.

    Args:
        asset: the 3D asset.
        path: file to write; its folder is created.
        kind: file format.
        options: options for surfaces.

    Returns:
        A summary of what was written.

    Raises:
        ValueError: if a file exists, the asset is empty, or an option has no effect on it.
    """
    options.check_effects(kind, asset)
    for file in export_paths(path, kind, asset):
        if file.exists():
            raise ValueError(
                f"{file} exists and is not overwritten; choose another file with --out"
            )
    if isinstance(asset, Splats):
        check_finite_asset("Gaussians", *(getattr(asset, item.name) for item in fields(asset)))
        if kind == "ply":
            return _export_splats(asset, path)
        asset = splats_to_surface(asset)
    if isinstance(asset, MappedMesh):
        check_finite_asset("vertices", *(part.vertices for part in asset.parts))
        return _export_mapped(asset, path, kind, options)
    mesh, num_dropped = options.to_mesh(asset, vertex_colors=kind == "ply")
    _check_colors(mesh)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, data in _encode(mesh, path, kind).items():
        writers.write_atomic(file, data)
    return _mesh_summary(mesh, num_dropped)


def _check_colors(mesh: TexturedMesh) -> None:
    """Refuse vertex colors that are not finite, which a .glb would take; textures refuse theirs."""
    if mesh.colors is not None:
        check_finite_asset("colors", mesh.colors)


def _encode(mesh: TexturedMesh, path: Path, kind: ExportFormat) -> dict[Path, bytes]:
    """Contents of the files of a mesh, in the order in which they are to be written."""
    if kind == "obj":
        return writers.encode_obj(mesh, path)
    return {path: writers.encode_glb(mesh) if kind == "glb" else writers.encode_ply(mesh)}


def _export_mapped(
    asset: MappedMesh, path: Path, kind: ExportFormat, options: MeshExportOptions
) -> str:
    """Write a mesh of one's own with all of its faces."""
    if kind == "ply" or options.vertex_colors:
        parts = [color_vertices(asset)]
        _check_colors(parts[0])
    else:
        parts = [bake_part(part, options.texels) for part in asset.parts]
    if kind == "obj":
        files = writers.encode_obj_parts(parts, path, _AXES_OF_FILE)
    elif kind == "glb":
        files = {path: writers.encode_glb_parts(parts)}
    else:
        files = {path: writers.encode_ply(parts[0], _AXES_OF_FILE)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        writers.write_atomic(file, data)
    faces = sum(len(part.faces) for part in parts)
    if parts[0].texture is None:
        return f"all {faces:,} faces with vertex colors"
    num_new = sum(part.uv is None for part in asset.parts)
    coordinates = f"new texture coordinates for {num_new}" if num_new else "its coordinates kept"
    textures = "a texture" if len(parts) == 1 else f"{len(parts)} textures"
    return (
        f"all {faces:,} faces with {textures} of {options.texels} x {options.texels}, {coordinates}"
    )


def _mesh_summary(mesh: TexturedMesh, num_dropped: int) -> str:
    if mesh.texture is None:
        colors = "vertex colors"
    else:
        charts = count_charts(mesh)
        colors = f"a texture of {mesh.texture.shape[2]} x {mesh.texture.shape[1]}"
        colors += f" in {charts:,} chart" + ("s" if charts != 1 else "")
    summary = f"{len(mesh.faces):,} faces with {colors}"
    summary += (
        ", watertight" if is_closed_surface(mesh.vertices, mesh.faces) else ", not watertight"
    )
    if num_dropped:
        plural = "s" if num_dropped != 1 else ""
        summary += f"; dropped {num_dropped} small component{plural}"
    return summary


def _export_splats(splats: Splats, path: Path) -> str:
    if not len(splats.means):
        raise ValueError("this particle has no Gaussians to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    writers.write_splats_atomic(path, splats)
    return f"{len(splats.means):,} splats"
