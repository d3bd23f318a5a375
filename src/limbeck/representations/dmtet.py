"""A surface out of a tetrahedral grid of signed distances, with a field of colours: DMTet, as Fantasia3D, Magic3D and
ProlificDreamer refine what a radiance field began (Shen et al. 2021, arXiv 2111.04276)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background
from limbeck.graphics.fields.color import ColorField, fit_color_field
from limbeck.graphics.fields.decoders import Decoder, MLPDecoder
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.marching_tetrahedra import (
    TetGrid,
    ellipsoid_sdf,
    gaussian_blur_matrix,
    level_set_to_sdf,
    silhouette_iso_level,
)
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    concat_topologies,
    laplacian_smoothing,
    normal_consistency,
    remove_small_components,
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
from limbeck.representations.base import (
    Render,
    Representation,
    RepresentationConfig,
    SpatialFields,
    match_particles,
)
from limbeck.world.background import WorldBackground

MeshShading = Literal["texture", "lit", "clay", "normals", "facing"]
COLOURED = ("texture", "lit")  #: the shadings that show colours
SPECK = 0.01  #: of the faces: a smaller piece is left out of files
CLAY = 0.8  #: grey of what is shown without its colours


class DMTetParticles(Representation):
    """Every particle has signed distances, moves of the grid's vertices, and colours of its own."""

    init_sdf: Tensor
    border: Tensor
    blur: Tensor

    def __init__(self, spec: DMTet, sdf: Float[Tensor, "n v"], canvas: tuple[int, int], seed: int):
        super().__init__()
        self.spec, self.grid, self.canvas = spec, spec.grid, canvas
        self.register_buffer("init_sdf", sdf)
        self.sdf = nn.ParameterList(torch.zeros(sdf.shape[1]) for _ in sdf)
        self.deform = nn.ParameterList(torch.zeros(sdf.shape[1], 3) for _ in sdf)
        generator = torch.Generator().manual_seed(seed)
        self.color_fields = [
            ColorField(spec.encoding, spec.decoder, spec.bound, generator) for _ in sdf
        ]
        self.colour = nn.ModuleList(self.color_fields)
        self.background = nn.ModuleList(spec.background.build(generator) for _ in sdf)
        self.sdf.requires_grad_(spec.geometry)
        self.deform.requires_grad_(spec.geometry)
        self.colour.requires_grad_(spec.optimizes_color)
        self.register_buffer("border", self.grid.boundary_mask(), persistent=False)
        self.register_buffer(
            "blur",
            gaussian_blur_matrix(self.grid.vertices_per_side, spec.sdf_blur),
            persistent=False,
        )
        self._fixed: dict[int, tuple[Tensor, MeshTopology]] = {}
        self.register_load_state_dict_post_hook(lambda module, _: module._fixed.clear())

    def param_groups(self) -> list[dict]:
        s = self.spec
        parts = [(s.lr * s.background.lr_scale, list(self.background.parameters()))]
        if s.geometry:
            parts += [(s.sdf_lr, list(self.sdf)), (s.deform_lr, list(self.deform))]
        if s.optimizes_color:
            parts.append(
                (
                    s.lr * s.encoding.lr_scale,
                    [p for one in self.color_fields for p in one.encoding.parameters()],
                )
            )
            parts.append(
                (
                    s.lr * s.decoder.lr_scale,
                    [p for one in self.color_fields for p in one.decoder.parameters()],
                )
            )
        return [{"params": found, "lr": rate} for rate, found in parts if found]

    def vertex_sdf(self, particle: int) -> Float[Tensor, "v"]:
        """Signed distances at the grid's vertices: those of the start and the blurred moves of the run."""
        if not self.spec.sdf_blur:
            return self.init_sdf[particle] + self.sdf[particle]
        moved = self.sdf[particle].reshape((self.grid.vertices_per_side,) * 3)
        for _ in range(3):  # along the last axis, which becomes the first
            moved = (moved @ self.blur).permute(2, 0, 1)
        return self.init_sdf[particle] + moved.flatten()

    def surface(self, particle: int) -> tuple[Float[Tensor, "v 3"], MeshTopology]:
        """Vertices in space and faces of a particle, closed: the border of the box is always outside. ValueError where nothing is
        left. A surface that does not change is made once."""
        if particle in self._fixed:
            return self._fixed[particle]
        sdf = self.vertex_sdf(particle)
        sdf = torch.where(self.border, sdf.clamp_min(0.1 * self.grid.cell_size), sdf)
        made = self.grid.extract_surface(sdf, self.grid.deform(self.deform[particle]))
        if not len(made[1].faces):
            raise ValueError(
                f"particle {particle} has no surface left, and nothing brings it back: begin with larger radii or a lower level, "
                "or take a lower rate_sdf"
            )
        if not self.spec.geometry:
            self._fixed[particle] = made
        return made

    def density(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n"]:
        """sigmoid(-s / cell) / cell of the distance s to the surface, 1 / (2 cell) on it. Moves of the grid's vertices are not
        followed."""
        return (
            -self.signed_distance(points, particle) / self.grid.cell_size
        ).sigmoid() / self.grid.cell_size

    def signed_distance(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n"]:
        """The signed distances, read between the grid's vertices."""
        n = self.grid.vertices_per_side
        cube = self.vertex_sdf(particle).reshape(1, 1, n, n, n)
        at = (points.flip(1) / self.grid.bound)[
            None, None, None
        ]  # grid_sample names the last axis first
        return nn.functional.grid_sample(
            cube, at, align_corners=True, padding_mode="border"
        ).flatten()

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]:
        """The colours, which are known everywhere and mean something on the surface."""
        return self.color_fields[particle](points)

    def render(self, view: RenderRequest) -> Render:
        if view.camera is None:
            raise ValueError("a mesh is seen by cameras: this view has none")
        camera, particles = view.camera.to(self.sdf[0].device), view.particle.tolist()
        made = {particle: self.surface(particle) for particle in dict.fromkeys(particles)}
        seen, points, normals = self._seen(camera, [made[particle] for particle in particles])
        shown = self._shaded(camera, view, seen, points, normals)
        alpha, image = seen.to_image(torch.ones_like(shown[:, :1])), seen.to_image(shown)
        both = antialias(
            seen, torch.cat([image + (1 - alpha) * self._behind(camera, view), alpha], 1)
        )
        terms = (
            self._terms(list(made.values()))
            if torch.is_grad_enabled() and self.spec.geometry
            else {}
        )
        return Render(
            both[:, :3],
            "image",
            both[:, 3:],
            seen.to_image(seen.depth[:, None]),
            seen.to_image(normals),
            terms,
        )

    def _seen(
        self, camera: Camera, made: list[tuple[Tensor, MeshTopology]]
    ) -> tuple[Fragments, Tensor, Tensor]:
        """What the pixels show, their points in space and unit normals."""
        rows = range(len(made))
        flat = torch.cat(
            [
                project_homogeneous(camera[row : row + 1], made[row][0][None], *self.canvas)[0]
                for row in rows
            ]
        )
        faces = torch.tensor([len(mesh.faces) for _, mesh in made], device=flat.device)
        image = torch.arange(len(made), device=flat.device).repeat_interleave(faces)
        seen = rasterize(
            ProjectedMesh(
                flat, concat_topologies([mesh for _, mesh in made]), image, len(made), *self.canvas
            )
        )
        looks = {id(mesh): vertex_normals(vertices, mesh) for vertices, mesh in made}
        both = torch.cat([torch.cat([vertices, looks[id(mesh)]], 1) for vertices, mesh in made])
        points, normals = seen.interpolate(both).split(3, 1)
        return seen, points, safe_normalize(normals)

    def _shaded(
        self, camera: Camera, view: RenderRequest, seen: Fragments, points: Tensor, normals: Tensor
    ) -> Float[Tensor, "p 3"]:
        """Colours of the pixels that are not empty."""
        row = seen.pixel // (self.canvas[0] * self.canvas[1])
        shading = self.spec.shading
        if shading == "normals":
            return (normals + 1) / 2
        if shading == "facing":
            return ((normals[:, None] @ camera.pose[row, :3, :3])[:, 0] + 1) / 2
        colour = (
            torch.full_like(points, CLAY) if shading == "clay" else self._painted(view, row, points)
        )
        if shading == "texture":
            return colour
        falls = (
            (normals * safe_normalize(camera.eye[row] - points)).sum(1, keepdim=True).clamp_min(0)
        )
        return colour * (self.spec.ambient + (1 - self.spec.ambient) * falls)

    def _painted(
        self, view: RenderRequest, row: Int[Tensor, "p"], points: Float[Tensor, "p 3"]
    ) -> Float[Tensor, "p 3"]:
        owner = view.particle.to(row.device)[row]
        out = torch.zeros_like(points)
        for particle in dict.fromkeys(view.particle.tolist()):
            own = (owner == particle).nonzero().squeeze(1)
            out = out.index_copy(
                0, own, self.color_fields[particle](points.index_select(0, own), view.progress)
            )
        return out

    def _behind(self, camera: Camera, view: RenderRequest) -> Float[Tensor, "b 3 h w"]:
        """The background of every row, which each particle has of its own."""
        ahead = camera.directions(*self.canvas)
        rows: dict[int, Tensor] = {}
        for particle in dict.fromkeys(view.particle.tolist()):
            own = (view.particle == particle).nonzero().squeeze(1).tolist()
            rows |= dict(
                zip(
                    own, self.background[particle](ahead[own], view.rng, view.progress), strict=True
                )
            )
        return torch.stack([rows[row] for row in range(len(view))]).permute(0, 3, 1, 2)

    def _terms(self, made: list[tuple[Tensor, MeshTopology]]) -> dict[str, Tensor]:
        """Of every particle that is seen, added up, so that none depends on how many there are."""
        terms = {
            "laplacian": (self.spec.laplacian_weight, laplacian_smoothing),
            "bending": (self.spec.normal_consistency_weight, normal_consistency),
        }
        return {
            name: torch.stack([of(*one) for one in made]).sum()
            for name, (weight, of) in terms.items()
            if weight
        }

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        weights = {
            "laplacian": self.spec.laplacian_weight,
            "bending": self.spec.normal_consistency_weight,
        }
        return {name: weights[name] * term for name, term in render.terms.items()}

    def initialize_from(
        self, other: Representation, particles: int, source: Path, seed: int
    ) -> None:
        _initialize(self, other, particles, source, seed)

    @torch.no_grad()
    def asset(self, particle: int) -> Surface:
        """The surface without specks, which no view has cared for."""
        vertices, mesh = remove_small_components(*self.surface(particle), SPECK)
        return Surface(vertices, mesh.faces, torch.no_grad()(self.color_fields[particle]))


@dataclass(frozen=True)
class DMTet(RepresentationConfig):
    """A surface that marching tetrahedra find in a grid of signed distances, and colours in the space around it.

    It begins as an ellipsoid, or with what another run made. cells: cubes to a side of the grid (papers: 128 and 256). half: half
    the side of the box. radii: half axes of the ellipsoid. init_from: folder or checkpoint of a run of a field or a mesh, with one
    particle, one per prompt or one for each. level: density of its field at the surface; 0 for that whose surface covers as much
    as is half opaque. fit: steps that fit the colours to those of the start. geometry: whether the surface is optimised. texture:
    whether the colours are, where the shading shows them. shading: colours as they are, lit by a lamp at the camera, as grey clay
    in that light, or the normals of the world or those facing the camera as colours, n / 2 + 1 / 2. ambient: share of the light
    that comes from everywhere. background: what is seen past it. encoding: of the points, for the colours. decoder: of the
    encoding. smooth: deviation in cells of a blur between what is optimised and the distances, so that steps are smooth (as in
    Nicolet et al. 2021, arXiv 2107.05513); 0 for plain DMTet. laplacian: weight of the mean distance of vertices from the middle of
    their neighbours (ProlificDreamer .5, threestudio 10,000). bending: weight of the mean of 1 - cos between faces side by side
    (5,000 and 10,000). rate: peak rate of the colours. rate_sdf: peak rate of the distances, in units of space. rate_deform: of raw
    moves of the grid's vertices, whose tanh is in half cells.
    """

    name = "dmtet"

    grid_resolution: int = 32
    bound: float = 1.2
    init_radii: tuple[float, float, float] = (0.7, 0.7, 0.7)
    init_from: Path | None = None
    iso_level: float = 0.0
    init_steps: int = 200
    geometry: bool = True
    texture: bool = True
    shading: MeshShading = "lit"
    ambient: float = 0.4
    background: Background = field(default_factory=WorldBackground)
    encoding: Encoding = field(default_factory=DenseGridEncoding)
    decoder: Decoder = field(default_factory=MLPDecoder)
    sdf_blur: float = 1.5
    laplacian_weight: float = 300.0
    normal_consistency_weight: float = 100.0
    lr: float = 1e-2
    sdf_lr: float = 5e-3
    deform_lr: float = 2e-3

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError(
                "a mesh cannot begin with images: leave images out, or begin with another run by init_from"
            )
        if self.grid_resolution < 4 or self.init_steps < 0:
            raise ValueError(
                f"cells must be at least 4 and fit not negative, not {self.grid_resolution} and {self.init_steps}"
            )
        if (
            self.bound <= 0
            or not 2 * self.bound / self.grid_resolution
            < min(self.init_radii)
            <= max(self.init_radii)
            < self.bound
        ):
            raise ValueError(
                f"radii must be more than a cell and less than half {self.bound:g}, not {self.init_radii}"
            )
        if (
            min(
                weights := (
                    self.iso_level,
                    self.sdf_blur,
                    self.laplacian_weight,
                    self.normal_consistency_weight,
                )
            )
            < 0
        ):
            raise ValueError(
                f"level, smooth, laplacian and bending must not be negative: {weights}"
            )
        if not 0 <= self.ambient <= 1:
            raise ValueError(f"ambient is a share in [0, 1], not {self.ambient}")
        if min(self.lr, self.sdf_lr, self.deform_lr) <= 0:
            raise ValueError(
                f"every rate must be positive: {self.lr}, {self.sdf_lr}, {self.deform_lr}"
            )
        if not self.geometry and not self.optimizes_color:
            shows = (
                f"shading is one of {', '.join(COLOURED)}, not {self.shading}"
                if self.texture
                else "texture is true"
            )
            raise ValueError(
                f"nothing is optimised: geometry is false, and colours are optimised only where {shows}"
            )

    @property
    def grid(self) -> TetGrid:
        return TetGrid(self.grid_resolution, self.bound)

    @property
    def optimizes_color(self) -> bool:
        """Whether colours are optimised."""
        return self.texture and self.shading in COLOURED

    def painted_as(self, other: DMTet) -> bool:
        """Whether the colours of both have the same parameters."""
        return (self.encoding, self.decoder, self.bound) == (
            other.encoding,
            other.decoder,
            other.bound,
        )

    @property
    def uninitialized(self) -> DMTet:
        return replace(self, init_from=None)

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        canvas, points = self.canvas_size(prior), self.grid.vertices()
        sdf = ellipsoid_sdf(points, self.init_radii).expand(particles, -1)
        return DMTetParticles(self, sdf.clone(), canvas, seed).to(prior.device)


def _initialize(
    made: DMTetParticles, other: Representation, count: int, start: Path, seed: int
) -> None:
    """``made`` with the surfaces and colours of another run: as they are where that is a mesh of the same grid, else from the level
    of its density. ValueError where the run made nothing solid, or has no surface at that level."""
    if not isinstance(other, SpatialFields):
        raise ValueError(
            f"{start} holds a run of {type(other).__name__}, which has neither density nor colours in space"
        )
    spec, generator = made.spec, torch.Generator().manual_seed(seed)
    for ours, theirs in enumerate(match_particles(count, len(made.sdf), start)):
        with torch.no_grad():
            points = made.grid.vertices().to(made.sdf[ours])
            if isinstance(other, DMTetParticles) and other.grid == made.grid:
                made.init_sdf[ours] = other.vertex_sdf(theirs)
                made.deform[ours].copy_(other.deform[theirs])
            elif isinstance(other, DMTetParticles):
                made.init_sdf[ours] = other.signed_distance(points, theirs)
            else:
                density = torch.cat([other.density(part, theirs) for part in points.split(1 << 18)])
                made.init_sdf[ours] = level_set_to_sdf(
                    (spec.iso_level or silhouette_iso_level(density, made.grid)) - density,
                    made.grid,
                )
            vertices, _ = made.surface(ours)
        read = lambda s: (s.encoding, s.decoder, s.half)  # noqa: E731
        if isinstance(other, DMTetParticles) and read(other.spec) == read(spec):
            made.color_fields[ours].load_state_dict(other.color_fields[theirs].state_dict())
        else:
            rates = (spec.lr * spec.encoding.lr_scale, spec.lr * spec.decoder.lr_scale)
            fit_color_field(
                made.color_fields[ours],
                partial(other.albedo, particle=theirs),
                vertices,
                made.grid.cell_size,
                rates,
                spec.init_steps,
                generator,
            )
            made.color_fields[ours].requires_grad_(spec.optimizes_color)
    faces = [len(made.surface(i)[1].faces) for i in range(len(made.sdf))]
    made.init_message = f"begins with {start}: {', '.join(f'{n:,}' for n in faces)} faces"
