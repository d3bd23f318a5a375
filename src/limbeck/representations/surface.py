"""What the representations with a surface have in common: rendering, shading and smoothness."""

from __future__ import annotations

import abc
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.fields.color import ColorField
from limbeck.graphics.geometry.assets import MappedMesh, Surface
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    concat_topologies,
    laplacian_smoothing,
    normal_consistency,
    safe_normalize,
    vertex_normals,
)
from limbeck.graphics.rendering.rasterizer import (
    Fragments,
    ProjectedMesh,
    antialias,
    project_homogeneous,
    rasterize,
)
from limbeck.representations.backgrounds import render_backgrounds
from limbeck.representations.base import Render, Representation

MeshShading = Literal["texture", "lit", "clay", "normals", "facing"]
COLOR_SHADINGS = ("texture", "lit")  #: the shadings that show the color field
_LIT_SHADINGS = ("lit", "clay")  #: the shadings with a light at the camera
SurfaceRows = list[tuple[Tensor, MeshTopology]]  #: vertices and topology of each row
_CLAY_GRAY = 0.8  #: albedo of the clay shading


class SurfaceOptions(Protocol):
    """Options that a representation with a surface has."""

    @property
    def geometry(self) -> bool:
        """Whether the surface is optimized."""
        ...

    @property
    def shading(self) -> MeshShading:
        """What a render shows."""
        ...

    @property
    def ambient(self) -> float:
        """Ambient part of the light, in [0, 1]."""
        ...

    @property
    def laplacian_weight(self) -> float:
        """Weight of the mean distance of vertices from the mean of their neighbors."""
        ...

    @property
    def normal_consistency_weight(self) -> float:
        """Weight of the mean of 1 - cos between adjacent faces."""
        ...


def check_surface_options(options: SurfaceOptions, texture: bool) -> None:
    """Refuse options with which nothing is optimized, or a light that does not exist.

    Args:
        options: options of the representation.
        texture: whether the color field is optimized where the shading shows it.

    Raises:
        ValueError: if the ambient light is out of range, or nothing is optimized.
    """
    if not 0 <= options.ambient <= 1:
        raise ValueError(f"ambient must be in [0, 1], not {options.ambient}")
    if not options.geometry and not (texture and options.shading in COLOR_SHADINGS):
        needed = f"shading must be one of {', '.join(COLOR_SHADINGS)}, not {options.shading}"
        raise ValueError(
            "nothing is optimized: geometry is false, and for colors "
            + (needed if texture else "texture must be true")
        )


def idle_light(shading: MeshShading) -> dict[str, str]:
    """Return the option of the light and the reason if a shading has no light.

    Args:
        shading: what a render shows.
    """
    return {} if shading in _LIT_SHADINGS else {"ambient": f"with shading {shading}, without light"}


class SurfaceParticles(Representation):
    """Surfaces with a color field and a background per particle.

    Attributes:
        config: options.
        canvas_size: height and width of a render in pixels.
        color_fields: one ``ColorField`` per particle.
        backgrounds: one ``BackgroundModule`` per particle.
    """

    config: SurfaceOptions
    canvas_size: tuple[int, int]
    color_fields: nn.ModuleList
    backgrounds: nn.ModuleList

    @abc.abstractmethod
    def surface(self, particle: int) -> tuple[Float[Tensor, "v 3"], MeshTopology]:
        """Return vertices in world space and the faces of a surface."""

    @abc.abstractmethod
    def asset(self, particle: int) -> Surface | MappedMesh:
        """See ``Representation``."""

    def color_field(self, particle: int) -> ColorField:
        """Return the color field of a particle."""
        module = self.color_fields[particle]
        assert isinstance(module, ColorField)
        return module

    def render(self, request: RenderRequest) -> Render:
        return self._render(request, self.config.shading)

    def render_unlit(self, request: RenderRequest) -> Render:
        return self._render(request, "texture")

    def _render(self, request: RenderRequest, shading: MeshShading) -> Render:
        """Render in a shading, whatever that of the options is."""
        if request.camera is None:
            raise ValueError(f"{type(self.config).__name__} needs cameras: --cameras orbit")
        particles = request.particle.tolist()
        surfaces = {particle: self.surface(particle) for particle in dict.fromkeys(particles)}
        rows = [surfaces[particle] for particle in particles]
        camera = request.camera.to(rows[0][0].device)
        size = request.size or self.canvas_size
        fragments = _rasterize_rows(camera, rows, size)
        points, normals = self.interpolate_surface(camera, fragments, rows)
        color = self._shade(camera, request, fragments, points, normals, shading)
        alpha = fragments.to_image(torch.ones_like(color[:, :1]))
        directions = camera.directions(*size)
        background = render_backgrounds(self.backgrounds, directions, request)
        image = fragments.to_image(color) + (1 - alpha) * background
        rgba = antialias(fragments, torch.cat([image, alpha], 1))
        terms = {}
        if torch.is_grad_enabled() and self.config.geometry:
            terms = self._smoothness_terms(list(surfaces.values()))
        depth = fragments.to_image(fragments.depth[:, None])
        normal = fragments.to_image(normals)
        if request.rng is None:  # pixels of the rim that no fragment covers take those of the mesh
            blended = antialias(fragments, torch.cat([depth, normal], 1))
            depth, normal = blended[:, :1] / rgba[:, 3:].clamp_min(1e-6), blended[:, 1:]
            normal = torch.nn.functional.normalize(normal, dim=1, eps=1e-6)
        image, alpha = rgba.split([3, 1], 1)
        return Render(image, "image", alpha, depth, normal, terms, background)

    def interpolate_surface(
        self, camera: Camera, fragments: Fragments, rows: SurfaceRows
    ) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """Return the points of the covered pixels in world space, and their unit normals.

        Args:
            camera: one camera per row.
            fragments: the covered pixels.
            rows: vertices and topology of each row.
        """
        # rows of the same particle share one topology object
        normals = {id(mesh): vertex_normals(vertices, mesh) for vertices, mesh in rows}
        attributes = torch.cat(
            [torch.cat([vertices, normals[id(mesh)]], 1) for vertices, mesh in rows]
        )
        points, normal = fragments.interpolate(attributes).split(3, 1)
        return points, safe_normalize(normal)

    def surface_color(
        self,
        request: RenderRequest,
        row: Int[Tensor, "p"],
        fragments: Fragments,
        points: Float[Tensor, "p 3"],
    ) -> Float[Tensor, "p 3"]:
        """Evaluate the color fields at the covered pixels.

        Args:
            request: what is rendered.
            row: row of the request of each pixel.
            fragments: the covered pixels.
            points: their points in world space.
        """
        owner = request.particle.to(row.device)[row]
        out = torch.zeros_like(points)
        for particle in dict.fromkeys(request.particle.tolist()):
            index = (owner == particle).nonzero().squeeze(1)
            color = self.color_field(particle)(points.index_select(0, index), request.progress)
            out = out.index_copy(0, index, color)
        return out

    def _shade(
        self,
        camera: Camera,
        request: RenderRequest,
        fragments: Fragments,
        points: Float[Tensor, "p 3"],
        normals: Float[Tensor, "p 3"],
        shading: MeshShading,
    ) -> Float[Tensor, "p 3"]:
        """Return the colors of the covered pixels."""
        height, width = request.size or self.canvas_size
        row = fragments.pixel // (height * width)
        if shading == "normals":
            return (normals + 1) / 2
        if shading == "facing":
            return ((normals[:, None] @ camera.pose[row, :3, :3])[:, 0] + 1) / 2
        if shading == "clay":
            color = torch.full_like(points, _CLAY_GRAY)
        else:
            color = self.surface_color(request, row, fragments, points)
        if shading == "texture":
            return color
        to_camera = safe_normalize(camera.eye[row] - points)
        diffuse = (normals * to_camera).sum(1, keepdim=True).clamp_min(0)
        return color * (self.config.ambient + (1 - self.config.ambient) * diffuse)

    def _smoothness_terms(self, surfaces: SurfaceRows) -> dict[str, Tensor]:
        """Sum the terms over particles, so that none depends on the number of particles."""
        terms = {}
        if self.config.laplacian_weight:
            terms["laplacian"] = laplacian_smoothing
        if self.config.normal_consistency_weight:
            terms["normal_consistency"] = normal_consistency
        return {
            name: torch.stack([term(*surface) for surface in surfaces]).sum()
            for name, term in terms.items()
        }

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        weights = {
            "laplacian": self.config.laplacian_weight,
            "normal_consistency": self.config.normal_consistency_weight,
        }
        return {name: weights[name] * term for name, term in render.terms.items()}


def _rasterize_rows(camera: Camera, rows: SurfaceRows, size: tuple[int, int]) -> Fragments:
    """Return the covered pixels of all rows.

    Args:
        camera: one camera per row.
        rows: vertices and topology of each row.
        size: height and width in pixels.
    """
    projected = torch.cat(
        [
            project_homogeneous(camera[i : i + 1], vertices[None], *size)[0]
            for i, (vertices, _) in enumerate(rows)
        ]
    )
    topologies = [topology for _, topology in rows]
    num_faces = torch.tensor([len(mesh.faces) for mesh in topologies], device=projected.device)
    image = torch.arange(len(rows), device=projected.device).repeat_interleave(num_faces)
    joined = concat_topologies(topologies)
    return rasterize(ProjectedMesh(projected, joined, image, len(rows), *size))
